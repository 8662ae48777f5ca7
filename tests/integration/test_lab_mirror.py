"""A mirror and a further repository in a real Debian 12 container: apt uses them, and they are removed again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

import pytest

from homelab.inventory.openpgp import fingerprints
from homelab.lab import Lab
from homelab.model import PackageSources, Repository, Step
from homelab.services.base_system import packages_from
from homelab.steps import Packages
from tests.integration.lab_fixture import LabFixture, in_a_lab, lab_with

LAB = Lab("mirror", IPv4Network("10.99.2.48/28"), "hl-mirr", 18116, 8199)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.48/28, gateway: .49, bridge: x}
containers:
  postgres-data: {vmid: 184, ip: .52, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
pipelines: {weather: {cities: ["Newark,US"]}}
"""
# Sources in both formats, both unreachable: packages can only come from the mirror.
LIST = "# from the template\ndeb http://archive.invalid/debian bookworm main contrib\n"
STANZA = """Types: deb
URIs: http://security.invalid/debian-security
Suites: bookworm-security
Components: main
"""
# https://ftp-master.debian.org/keys.html: the automatic signing key and the stable release key.
AUTOMATIC = ("automatic", "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8")
STABLE = ("stable", "4D64FEC119C2029067D6E791F8D2585B8783D481")

pytestmark = in_a_lab()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("mirror"), INVENTORY) as box:
        box.up()
        yield box


@pytest.fixture(scope="module")
def uris(box: LabFixture) -> dict[str, str]:
    """The URI of each suite in the new container; only these are reachable here."""
    return {
        suite: uri
        for uri, suite in re.findall(r"'(\S+)/dists/(\S+)/InRelease'", box.run("apt-get update --print-uris"))
    }


def sources(box: LabFixture, uris: Mapping[str, str], key: tuple[str, str]) -> PackageSources:
    """Return a mirror, with its `bookworm-updates` as a further repository."""
    name, fingerprint = key
    packets = bytes.fromhex(box.run(f"od -An -v -tx1 /usr/share/keyrings/debian-archive-bookworm-{name}.gpg"))
    assert fingerprints(packets) == [fingerprint]
    return PackageSources(
        apt_mirror=uris["bookworm"],
        apt_security_mirror=uris["bookworm-security"],
        repositories=(
            Repository(
                name="updates",
                uri=uris["bookworm-updates"],
                key=packets,
                suite="bookworm-updates",
                components=("main",),
            ),
        ),
    )


def test_apt_uses_the_mirror_and_the_original_sources_come_back(box: LabFixture, uris: dict[str, str]) -> None:
    there = "cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; ls /etc/apt/sources.list.d"
    box.run(
        f"rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*; printf '{LIST}' >/etc/apt/sources.list; "
        f"printf '{STANZA}' >/etc/apt/sources.list.d/debian.sources"
    )
    before = box.run(there)
    steps: list[Step] = [*packages_from(sources(box, uris, AUTOMATIC)), Packages(["hello"])]
    box.deploy(steps)
    assert box.pending(steps) == []
    assert box.run("hello") == "Hello, world!"
    output = box.run("apt-get update 2>&1")
    assert [line for line in output.splitlines() if line.startswith(("Err", "W:", "E:"))] == []
    assert "bookworm-security" in output
    assert "bookworm-updates" in output
    assert ".invalid" not in output
    gone = box.deploy([])
    assert [line.partition(":")[0] for line in gone] == [
        "remove file /etc/apt/sources.list.d/homelab-updates.sources",
        "remove file /usr/share/keyrings/homelab-updates.gpg",
        "remove mirror /etc/apt/sources.list",
    ]
    assert box.run(there) == before
    assert box.deploy([]) == []


def test_repository_signed_with_another_key_is_refused(box: LabFixture, uris: dict[str, str]) -> None:
    box.deploy([*packages_from(sources(box, uris, STABLE))])
    output = box.run("apt-get update 2>&1; apt-cache policy")
    assert "NO_PUBKEY" in output or "not signed" in output or "Missing key" in output
    box.deploy([])
