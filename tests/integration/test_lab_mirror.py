"""A mirror and a further repository in a real Debian 12 container: apt works with them, and they go again."""

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

pytestmark = in_a_lab()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("mirror"), INVENTORY) as box:
        box.up()
        yield box


@pytest.fixture(scope="module")
def uris(box: LabFixture) -> dict[str, str]:
    """Where apt has each suite from as the container was made: only that can be reached here."""
    return {
        suite: uri
        for uri, suite in re.findall(r"'(\S+)/dists/(\S+)/InRelease'", box.run("apt-get update --print-uris"))
    }


def sources(box: LabFixture, uris: Mapping[str, str], key: tuple[str, str]) -> PackageSources:
    """A mirror, and its `bookworm-updates` as a repository of its own."""
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


def test_apt_works_with_them_and_what_stood_there_comes_back(box: LabFixture, uris: dict[str, str]) -> None:
    there = "cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; ls /etc/apt/sources.list.d"
    box.run(
        f"rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*; printf '{LIST}' >/etc/apt/sources.list; "
        f"printf '{STANZA}' >/etc/apt/sources.list.d/debian.sources"
    )
    before = box.run(there)
    steps: list[Step] = [*packages_from(sources(box, uris, AUTOMATIC)), Packages(["hello"])]
    box.deploy(steps)
    assert box.check(steps) == []
    assert box.run("hello") == "Hello, world!"
    said = box.run("apt-get update 2>&1")
    assert [line for line in said.splitlines() if line.startswith(("Err", "W:", "E:"))] == []
    assert "bookworm-security" in said
    assert "bookworm-updates" in said
    assert ".invalid" not in said
    gone = box.deploy([])
    assert [line.partition(":")[0] for line in gone] == [
        "remove file /etc/apt/sources.list.d/homelab-updates.sources",
        "remove file /usr/share/keyrings/homelab-updates.gpg",
        "remove mirror /etc/apt/sources.list",
    ]
    assert box.run(there) == before
    assert box.deploy([]) == []


def test_a_repository_that_another_key_has_signed_is_refused(box: LabFixture, uris: dict[str, str]) -> None:
    box.deploy([*packages_from(sources(box, uris, STABLE))])
    said = box.run("apt-get update 2>&1; apt-cache policy")
    assert "NO_PUBKEY" in said or "not signed" in said or "Missing key" in said
    box.deploy([])
