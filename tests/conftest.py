"""Setup of all tests: the network guard, the processes of the labs, and folders for the notes of steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from homelab.steps import remote_paths
from tests.network_guard import sitecustomize  # the import installs the guard


def _lab_tests(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/integration/test_lab_{name}" for name in names)


# Labs with the same addresses run one after another: those in each of these parts of the network of all labs.
_PARTS_OF_THE_NETWORK = {
    "10.99.2.128/25": ("tests/e2e/", *_lab_tests("airflow", "broker", "own_pipeline")),
    "10.99.2.64/26": _lab_tests(
        *("alerts", "crash", "deploy", "dhcp", "disks", "firewall", "monitoring", "repairs", "services", "snapshots")
    ),
    "10.99.2.0/26": _lab_tests(""),
}
_GUARD = str(Path(sitecustomize.__file__).parent)


def pytest_configure() -> None:
    """Install the guard in Python programs that tests start: they find it first on their path."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH")]))


def part_of_the_network(nodeid: str) -> str | None:
    """Return the part of the labs' network that has the addresses of a test's lab; None for a test without a lab."""
    return next((part for part, files in _PARTS_OF_THE_NETWORK.items() if nodeid.startswith(files)), None)


class LabScheduling(LoadFileScheduling):
    """The distribution of `--dist loadfile`, with one process for the labs of each part of their network."""

    def _split_scope(self, nodeid: str) -> str:
        return part_of_the_network(nodeid) or super()._split_scope(nodeid)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return at least one process more than those of the labs, which wait for half of their time."""
    processes = len(_PARTS_OF_THE_NETWORK) + 1
    return max(processes, os.cpu_count() or 1) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LabScheduling | None:
    """Return the distribution of the tests to processes, for `--dist loadfile`."""
    return LabScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _own_notes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give each test its own folder for the notes that steps write on a host that is this machine."""
    if request.node.get_closest_marker("lab"):
        return  # its hosts are containers of its own
    folder = tmp_path_factory.mktemp("notes")
    monkeypatch.setattr(remote_paths, "STATE", str(folder / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(folder / "run"))
