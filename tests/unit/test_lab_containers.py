"""A lab container's inputs: its template's recipe, its LXC configuration and its files."""

from __future__ import annotations

import os
import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.known_hosts import fingerprint
from homelab.lab import LABS, guest, template_build
from homelab.lab.lxc import Runtime

CONFIG = {
    "hostname": "db",
    "memory": 512,
    "swap": 0,
    "cores": 1,
    "features": "nesting=1",
    "net0": "name=eth0,bridge=hl-e2e,gw=10.99.2.129,hwaddr=BC:24:11:00:00:01,ip=10.99.2.195/25,type=veth",
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name=eth0,bridge=vmbr0", {"name": "eth0", "bridge": "vmbr0"}),
        ("local:195/vm-195-disk-0.raw,size=8G", {"volume": "local:195/vm-195-disk-0.raw", "size": "8G"}),
        ("order=2,up=30", {"order": "2", "up": "30"}),
        ("key=a=b", {"key": "a=b"}),
        ("", {}),
    ],
)
def test_parse_properties(text: str, found: dict[str, str]) -> None:
    assert guest.parse_properties(text) == found


def test_configuration_is_unprivileged_and_limited() -> None:
    lines = Runtime(LABS["e2e"]).configuration(195, CONFIG).splitlines()
    assert "lxc.idmap = u 0 100000 65536" in lines
    assert "lxc.idmap = g 0 100000 65536" in lines
    assert "lxc.include = /usr/share/lxc/config/nesting.conf" in lines
    assert "lxc.cgroup.dir.container = homelab-e2e-195" in lines
    assert "lxc.net.0.link = hl-e2e" in lines
    assert "lxc.net.0.hwaddr = BC:24:11:00:00:01" in lines
    assert "lxc.net.0.veth.pair = hl-e2e195i0" in lines
    assert "lxc.rootfs.path = dir:/var/lib/homelab/e2e/containers/195/rootfs" in lines


def test_configuration_without_nesting_and_network() -> None:
    lines = Runtime(LABS["e2e"]).configuration(195, {"hostname": "db"}).splitlines()
    assert not [line for line in lines if "nesting" in line]
    assert "lxc.net.0.type = empty" in lines


def test_veth_name_that_is_too_long_is_left_to_lxc() -> None:
    assert "veth.pair" not in Runtime(LABS["e2e"]).configuration(123456789, CONFIG)


def test_settings_files_of_a_start() -> None:
    files = guest.settings(CONFIG, [IPv4Address("10.0.0.53")])
    assert files["etc/hostname"] == b"db\n"
    assert files["etc/resolv.conf"] == b"nameserver 10.0.0.53\n"
    assert files["etc/hosts"] == b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n10.99.2.195 db\n"
    assert files["etc/network/interfaces"] == (
        b"auto lo\niface lo inet loopback\n\n"
        b"auto eth0\niface eth0 inet static\n\taddress 10.99.2.195/25\n\tgateway 10.99.2.129\n"
    )


def test_own_name_servers_and_domain_override_the_nodes() -> None:
    config = {**CONFIG, "nameserver": "10.1.1.1 10.1.1.2", "searchdomain": "lan"}
    files = guest.settings(config, [IPv4Address("9.9.9.9")])
    assert files["etc/resolv.conf"] == b"search lan\nnameserver 10.1.1.1\nnameserver 10.1.1.2\n"
    assert files["etc/hosts"].endswith(b"10.99.2.195 db.lan db\n")


def test_empty_name_server_falls_back_to_the_nodes() -> None:
    # Proxmox stores an emptied value as one space.
    assert (
        guest.settings({**CONFIG, "nameserver": " "}, [IPv4Address("9.9.9.9")])["etc/resolv.conf"]
        == b"nameserver 9.9.9.9\n"
    )


def test_interfaces_with_dhcp_and_without_address() -> None:
    assert "iface eth0 inet dhcp" in guest.interfaces({0: {"name": "eth0", "ip": "dhcp"}})
    assert "iface eth1 inet manual" in guest.interfaces({1: {"name": "eth1"}})


def test_write_inside_sets_modes_and_creates_folders(tmp_path: Path) -> None:
    guest.write_inside(tmp_path, {"root/.ssh/authorized_keys": b"key\n"}, 0o600, os.getuid())
    file = tmp_path / "root/.ssh/authorized_keys"
    assert file.read_bytes() == b"key\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(file.parent) == ["authorized_keys"]


def test_symlink_cannot_redirect_a_write_outside(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "passwd").write_text("precious")
    (root / "etc").mkdir(parents=True)
    (root / "etc/hosts").symlink_to(outside / "passwd")
    guest.write_inside(root, {"etc/hosts": b"new"}, owner=os.getuid())
    assert (outside / "passwd").read_text() == "precious"
    assert not (root / "etc/hosts").is_symlink()
    assert (root / "etc/hosts").read_bytes() == b"new"

    (root / "linked").symlink_to(outside)
    with pytest.raises(OSError, match="linked"):
        guest.write_inside(root, {"linked/passwd": b"new"}, owner=os.getuid())
    assert (outside / "passwd").read_text() == "precious"


def test_fingerprint_equals_ssh_keygens(tmp_path: Path) -> None:
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not installed")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "root@db", "-f", tmp_path / "key"], check=True)
    printed = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], check=True, capture_output=True, text=True).stdout
    assert fingerprint((tmp_path / "key.pub").read_text()) == printed.split()[1]


DEB822 = """# a comment
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates trixie
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
"""


def test_source_lines_in_deb822_format() -> None:
    assert list(template_build.source_lines("debian.sources", DEB822)) == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian bookworm-updates main",
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/security bookworm-security main",
    ]


def test_source_lines_in_one_line_format() -> None:
    text = (
        "# deb http://off.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/x.gpg] http://mirror.example/debian bookworm main non-free\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://other.example/apt cloud-sdk-bookworm main\n"
        "deb http://mirror.example/debian bookworm contrib\n"
    )
    assert list(template_build.source_lines("sources.list", text)) == ["deb http://mirror.example/debian bookworm main"]
    assert list(template_build.source_lines("sources.list.save", text)) == []


BOOKWORM, TRIXIE = template_build.RELEASES


@pytest.mark.parametrize(
    ("content", "release", "sources"),
    [
        (
            "deb http://m.example/ bookworm main\ndeb http://m.example/ bookworm-updates main\n",
            BOOKWORM,
            ["deb http://m.example/ bookworm main", "deb http://m.example/ bookworm-updates main"],
        ),
        (
            "deb http://m.example/ bookworm main\ndeb http://m.example/ trixie-updates main\n",
            TRIXIE,
            ["deb http://m.example/ trixie main"],
        ),
        ("deb http://m.example/ trixie main\n", BOOKWORM, ["deb http://m.example/ bookworm main"]),
        ("deb http://m.example/ubuntu noble main\n", BOOKWORM, []),
        ("deb http://m.example/ bookworm-updates main\n", BOOKWORM, []),  # of another release's host; no base suite
    ],
)
def test_host_sources_use_the_hosts_mirrors_if_it_runs_debian(
    tmp_path: Path, content: str, release: template_build.Release, sources: list[str]
) -> None:
    (tmp_path / "sources.list").write_text(content)
    assert list(template_build.host_sources(tmp_path, release)) == sources


def test_recipe_digest_changes_with_every_input() -> None:
    plain = template_build.Recipe(BOOKWORM, (), (), ())
    others = [
        template_build.Recipe(BOOKWORM, ("deb x bookworm main",), (), ()),
        template_build.Recipe(TRIXIE, (), (), ()),
        template_build.Recipe(BOOKWORM, (), ('Acquire::x "y";',), ()),
        template_build.Recipe(BOOKWORM, (), (), (("ca.crt", b"1"),)),
        template_build.Recipe(BOOKWORM, (), (), (("ca.crt", b"2"),)),
    ]
    assert len({recipe.digest() for recipe in [plain, *others]}) == 6
    assert template_build.Recipe(BOOKWORM, (), (), ()).digest() == plain.digest()


def test_cached_template_is_found_by_recipe_and_leftovers_are_removed(tmp_path: Path) -> None:
    recipe = template_build.Recipe(TRIXIE, (), (), ())
    assert template_build.cached(tmp_path, recipe) is None
    made = tmp_path / "templates" / recipe.digest() / template_build.file_name(TRIXIE)
    made.parent.mkdir(parents=True)
    made.touch()
    (tmp_path / "templates/.build-x/ready").mkdir(parents=True)
    template_build.clean(tmp_path)
    assert template_build.cached(tmp_path, recipe) == made == template_build.newest(tmp_path)
    assert made.name.startswith("debian-13-standard_13-1_")
    assert not (tmp_path / "templates/.build-x").exists()
