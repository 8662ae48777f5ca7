"""The distribution of the labs of tests to processes."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.lab import Lab
from tests.conftest import part_of_the_network

TESTS = Path(__file__).parents[1]
LABS = [
    (path, network)
    for path in sorted(TESTS.glob("integration/test_lab_*.py"))
    for network in re.findall(r'Lab\("\w+", IPv4Network\("(\S+)"\)', path.read_text())
]


@pytest.mark.parametrize(("path", "network"), LABS, ids=[path.stem for path, _ in LABS])
def test_lab_runs_in_the_process_of_its_addresses(path: Path, network: str) -> None:
    part = part_of_the_network(str(path.relative_to(TESTS.parent)))
    assert part is not None
    assert IPv4Network(network).subnet_of(IPv4Network(part))


@pytest.mark.parametrize(("path", "network"), LABS, ids=[path.stem for path, _ in LABS])
def test_lab_has_no_address_of_a_demo_next_to_it(path: Path, network: str) -> None:
    demo = Lab()
    hosts = [(demo.subnet.network_address + number) for number in (67, 68, 69, 70)]
    assert not [each for each in (demo.gateway, *hosts) if each in IPv4Network(network)]


def test_test_without_a_lab_runs_in_any_process() -> None:
    assert part_of_the_network("tests/integration/test_lake.py") is None
    assert part_of_the_network("tests/e2e/test_stack.py") == "10.99.2.128/25"
