"""A mirror and a further repository in a real Debian 12 container: apt works with them, and they go again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.up import up as make_up
from homelab.inventory import load
from homelab.inventory.openpgp import fingerprints
from homelab.lab import Lab, down, missing, up
from homelab.lab.template import RELEASES, host_sources
from homelab.model import Repository, Sources, Step
from homelab.secrets import FileVault
from homelab.services.everywhere import packages_from
from homelab.steps import Packages
from homelab.trust import KnownHosts
from tests.integration.test_lab_deploy import QUIET, Box

LAB = Lab("mirror", IPv4Network("10.99.2.0/28"), "hl-mirr", 18116, 8199)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.0/28, gateway: .1, bridge: x}
containers:
  postgres-data: {vmid: 184, ip: .4, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
pipeline: {cities: ["Newark,US"]}
"""
# Both forms, and neither can be reached: what is installed comes from the mirror.
LIST = "# as the template has it\ndeb http://archive.invalid/debian bookworm main contrib\n"
STANZA = """Types: deb
URIs: http://security.invalid/debian-security
Suites: bookworm-security
Components: main
"""
# https://ftp-master.debian.org/keys.html: what signs an archive by itself, and what a release manager signs with.
AUTOMATIC = ("automatic", "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8")
STABLE = ("stable", "4D64FEC119C2029067D6E791F8D2585B8783D481")

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300),
              pytest.mark.skipif(bool(missing()), reason="this machine cannot run a lab: " + "; ".join(missing()))]


@pytest.fixture(autouse=True)
def _own_places() -> None:
    """None: the container is nobody else's."""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder: Path = tmp_path_factory.mktemp("mirror")
    (folder / "inventory.yaml").write_text(INVENTORY)
    down(LAB, QUIET)
    try:
        up(LAB, QUIET)
        inventory = replace(load([folder / "inventory.yaml", LAB.overlay]), state_dir=folder / "state")
        make_up(inventory, vault=FileVault(inventory.state_dir), known_hosts=KnownHosts.of(inventory.state_dir),
                progress=QUIET, confirm=lambda plan: True)
        yield Box(inventory)
    finally:
        down(LAB, QUIET)


def of_this_machine(suite: str) -> str:
    """Where this machine's own apt has a suite from: only it knows what can be reached here."""
    found = (line.split()[1:3] for line in host_sources(Path("/etc/apt"), RELEASES[0]))
    return next((uri for uri, theirs in found if theirs == suite), "http://deb.debian.org/debian")


def sources(box: Box, key: tuple[str, str]) -> Sources:
    """A mirror, and its `bookworm-updates` as a repository of its own."""
    name, fingerprint = key
    packets = bytes.fromhex(box.run(f"od -An -v -tx1 /usr/share/keyrings/debian-archive-bookworm-{name}.gpg"))
    assert fingerprints(packets) == [fingerprint]
    return Sources(apt_mirror=of_this_machine("bookworm"), apt_security_mirror=of_this_machine("bookworm-security"),
                   repositories=(Repository(name="updates", uri=of_this_machine("bookworm-updates"), key=packets,
                                            suite="bookworm-updates", components=("main",)),))


def test_apt_works_with_them_and_what_stood_there_comes_back(box: Box) -> None:
    there = "cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; ls /etc/apt/sources.list.d"
    box.run(f"rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*; printf '{LIST}' >/etc/apt/sources.list; "
            f"printf '{STANZA}' >/etc/apt/sources.list.d/debian.sources")
    before = box.run(there)
    steps: list[Step] = [*packages_from(sources(box, AUTOMATIC)), Packages(["hello"])]
    box.deploy(steps)
    assert box.pending(steps) == []
    assert box.run("hello") == "Hello, world!"
    said = box.run("apt-get update 2>&1")
    assert [line for line in said.splitlines() if line.startswith(("Err", "W:", "E:"))] == []
    assert "bookworm-security" in said
    assert "bookworm-updates" in said
    assert ".invalid" not in said
    gone = box.deploy([])
    assert [line.partition(":")[0] for line in gone] == [
        "remove file /etc/apt/sources.list.d/homelab-updates.sources",
        "remove file /usr/share/keyrings/homelab-updates.gpg", "remove mirror /etc/apt/sources.list"]
    assert box.run(there) == before
    assert box.deploy([]) == []


def test_a_repository_that_another_key_has_signed_is_refused(box: Box) -> None:
    box.deploy([*packages_from(sources(box, STABLE))])
    said = box.run("apt-get update 2>&1; apt-cache policy")
    assert "NO_PUBKEY" in said or "not signed" in said or "Missing key" in said
    box.deploy([])
