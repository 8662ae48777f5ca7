"""Conversion between Proxmox's texts and our types: property strings, configurations, logs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from homelab.commands.init import starter
from homelab.inventory import load
from homelab.model import ContainerConfig, Inventory, Mount, NetworkCard, differences
from homelab.paths import bundled_path
from homelab.proxmox.hostkeys import fingerprint_in
from homelab.proxmox.properties import disk_option, not_spoken_of, options, shape_of, tags
from homelab.proxmox.property_strings import parse, write
from tests.recorded import data


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load([bundled_path("inventory.yaml")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=eth0,bridge=vmbr0", {"name": "eth0", "bridge": "vmbr0"}),
        ("local:167/vm-167-disk-0.raw,size=8G", {"": "local:167/vm-167-disk-0.raw", "size": "8G"}),
        ("name=eth0,bridge=vmbr0,ip=dhcp,", {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}),
        ("mp=/a=b", {"mp": "/a=b"}),
        ("3", {"": "3"}),
        ("", {}),
        (" ", {}),
    ],
)
def test_property_strings_round_trip(text: str, expected: dict[str, str]) -> None:
    assert parse(text) == expected
    assert parse(write(expected)) == expected


def test_write_skips_none() -> None:
    assert write({"name": "eth0", "gw": None, "tag": 5}) == "name=eth0,tag=5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("alpha;db;prod", {"alpha", "db", "prod"}), (" ", set()), ("", set()), (None, set()), ("a,b c", {"a", "b", "c"})],
)
def test_parse_tags(text: str | None, expected: set[str]) -> None:
    assert tags(text) == expected


def test_shape_of_a_recorded_configuration() -> None:
    assert shape_of(data("config"), 167) == ContainerConfig(
        hostname="ct167",
        cores=2,
        memory=1024,
        swap=512,
        disk=8,
        bridge="vmbr0",
        address=IPv4Interface("192.168.3.167/24"),
        gateway=IPv4Address("192.168.3.1"),
        vlan=None,
        nameservers=(IPv4Address("192.168.3.1"),),
        searchdomain="bench.invalid",
        onboot=True,
        startup_order=None,
        unprivileged=True,
        tags=frozenset({"alpha", "db", "prod"}),
        description="line one\nline two: äöü €",
    )
    pending = {row["key"]: row["value"] for row in data("pending")}
    assert shape_of(pending, 167) == shape_of(data("config"), 167)


def test_shape_of_a_recorded_configuration_with_empty_values() -> None:
    shape = shape_of(data("config_odd"), 167)
    assert (shape.nameservers, shape.tags, shape.description, shape.onboot) == ((), frozenset(), "", False)


def test_shape_of_a_recorded_configuration_during_a_create() -> None:
    shape = shape_of(data("config_creating"), 168)
    assert (shape.hostname, shape.memory, shape.disk, shape.address) == ("CT168", 512, 0, None)


@pytest.mark.parametrize(
    ("size", "gib"), [("8G", 8), ("8192M", 8), ("1T", 1024), ("8.5G", 8), ("8255M", 8), ("512M", 0), ("", 0)]
)
def test_disk_sizes_are_rounded_down_to_gib(size: str, gib: int) -> None:
    assert shape_of({"rootfs": f"local:x,size={size}"}, 1).disk == gib


@pytest.mark.parametrize(("text", "order"), [("order=3", 3), ("3", 3), ("order=3,up=5", 3), ("up=5", None), ("", None)])
def test_parse_startup_order(text: str, order: int | None) -> None:
    assert shape_of({"startup": text}, 1).startup_order == order


def test_memory_may_be_text() -> None:
    assert shape_of({"memory": "0512", "swap": "0"}, 1).memory == 512


def as_proxmox_returns(values: dict[str, Any], disk: int) -> dict[str, Any]:
    """Convert options to the answer of a later GET: reordered, completed, with a newline after the description."""
    net = parse(values["net0"])
    return values | {
        "net0": write(dict(sorted((net | {"hwaddr": "BC:24:11:00:00:01", "type": "veth"}).items()))),
        "onboot": int(values["onboot"]),
        "unprivileged": int(values["unprivileged"]),
        "rootfs": f"local-lvm:vm-167-disk-0,size={disk}G",
        "description": values["description"] + "\n",
    }


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"networks": (NetworkCard(option="net1", bridge="vmbr1"),)},
        {
            "networks": (
                NetworkCard(option="net1", bridge="vmbr1", ip="dhcp", ip6="auto", vlan=7, mtu=9000, firewall=True),
                NetworkCard(option="net3", bridge="vmbr2", ip="10.0.0.5/8", ip6="2001:db8::5/64"),
            )
        },
        {"vlan": 5},
        {"address": "dhcp", "gateway": None},
        {"nameservers": (IPv4Address("9.9.9.9"), IPv4Address("1.1.1.1"))},
        {"searchdomain": "home.arpa"},
        {"startup_order": None},
        {"onboot": False},
        {"features": frozenset()},
        {"swap": 0},
        {"mtu": 9000},
        {"firewall": True},
        {"start_delay": 5, "stop_timeout": 0},
        {"features": frozenset({"keyctl", "mount=nfs;cifs"})},
        {"protection": True},
    ],
)
def test_shape_round_trips_through_options(inventory: Inventory, changed: dict[str, Any]) -> None:
    shape = replace(inventory.containers[0].shape, **changed)
    back = shape_of(as_proxmox_returns(options(shape), shape.disk), 167)
    assert list(differences(shape, back)) == []


CONFIG = {
    "net0": "name=eth1,bridge=vmbr9,firewall=1,gw=10.0.0.1,hwaddr=BC:24:11:60:10:47,ip=10.0.0.5/8,rate=5,tag=7",
    "features": "keyctl=1",
    "startup": "order=9,up=30",
    "rootfs": "zfs:subvol-167-disk-0,acl=1,size=8G",
    "mp0": "zfs:subvol-167-disk-1,mp=/data,size=10G,backup=1",
    "mp3": "/host/films,mp=/films",
    "net1": "name=eth1",
    "mp1": "zfs:subvol-167-disk-2,mp=/x,size=3G,mountoptions=noatime",
    "unused0": "zfs:subvol-167-disk-9",
}


def test_update_keeps_name_and_mac_of_the_network_card(inventory: Inventory) -> None:
    values = options(
        inventory.containers[0].shape,
        ["address", "gateway", "vlan", "bridge", "by_hand", "features", "startup_order"],
        CONFIG,
    )
    assert parse(values["net0"]) == {
        "name": "eth1",
        "bridge": "vmbr0",
        "gw": "192.168.2.1",
        "hwaddr": "BC:24:11:60:10:47",
        "ip": "192.168.2.67/24",
    }
    assert (values["features"], values["startup"]) == ("nesting=1", "order=1")
    assert set(values) == {"net0", "features", "startup"}


def test_update_keeps_name_and_mac_of_a_further_network_card(inventory: Inventory) -> None:
    card = NetworkCard(option="net1", bridge="vmbr1", ip="10.0.0.5/8")
    shape = replace(inventory.containers[0].shape, networks=(card, replace(card, option="net2", ip=None)))
    config = {"net1": "name=lan,bridge=vmbr9,hwaddr=BC:24:11:60:10:48,ip=dhcp,rate=5,type=veth"}
    values = options(shape, ["net1", "net2"], config)
    assert parse(values["net1"]) == {
        "name": "lan",
        "hwaddr": "BC:24:11:60:10:48",
        "type": "veth",
        "bridge": "vmbr1",
        "ip": "10.0.0.5/8",
    }
    assert parse(values["net2"]) == {"name": "eth2", "bridge": "vmbr1", "ip": "manual"}
    (found,) = shape_of(config, 167).networks
    assert (found.ip, found.by_hand) == ("dhcp", ("rate=5",))


def test_unset_fields_delete_their_option(inventory: Inventory) -> None:
    shape = replace(inventory.containers[0].shape, startup_order=None, features=frozenset())
    values = options(shape, ["nameservers", "searchdomain", "startup_order", "features"], {"startup": "order=9"})
    assert values == {"nameserver": None, "searchdomain": None, "startup": None, "features": None}


def test_settings_made_by_hand_are_listed() -> None:
    shape = shape_of(CONFIG, 167)
    assert shape.by_hand == {"net0 rate=5"}
    assert (shape.startup_order, shape.start_delay, shape.stop_timeout) == (9, 30, None)
    assert (shape.features, shape.firewall, shape.vlan, shape.mtu) == ({"keyctl"}, True, 7, None)
    assert list(not_spoken_of(CONFIG)) == ["mp1 mountoptions=noatime", "mp3", "net1", "rootfs acl=1"]


def test_mount_points_are_added_and_updated(inventory: Inventory) -> None:
    found = shape_of(CONFIG, 167)
    assert found.mounts == (Mount("/data", 10, True), Mount("/x", 3, False))
    assert [mount.storage for mount in found.mounts] == ["zfs", "zfs"]
    assert (disk_option(CONFIG, "/"), disk_option(CONFIG, "/x")) == ("rootfs", "mp1")
    wanted = replace(
        inventory.containers[0].shape,
        mounts=(Mount("/data", 20, True, "zfs"), Mount("/new", 5, True, "lvm"), Mount("/x", 3, True, "zfs")),
    )
    assert options(wanted, ["mounts"], CONFIG) == {
        "mp2": "lvm:5,mp=/new,backup=1",
        "mp1": "zfs:subvol-167-disk-2,mp=/x,size=3G,mountoptions=noatime,backup=1",
    }


def test_host_key_in_a_recorded_log() -> None:
    log = [line["t"] for line in data("create_log")]
    assert fingerprint_in(log) == "SHA256:78YWpJqJsZwyiDhIh2chjg09YfmE4OP+Ie9QBTXjuL8"
    # The order is random: the line before the fingerprint names the key.
    keys = [log[n : n + 2] for n in range(8, 14, 2)]
    shuffled = [*log[:8], *keys[1], *keys[2], *keys[0], log[-1]]
    assert fingerprint_in(shuffled) == "SHA256:78YWpJqJsZwyiDhIh2chjg09YfmE4OP+Ie9QBTXjuL8"


@pytest.mark.parametrize(
    "log",
    [
        [],
        ["TASK OK"],
        ["unable to open file - No such file or directory"],
        ["Creating SSH host key 'ssh_host_ed25519_key' - this may take some time ..."],
        ["Creating SSH host key 'ssh_host_rsa_key' - this may take some time ...", f"done: SHA256:{'A' * 43} root@x"],
        ["Creating SSH host key 'ssh_host_ed25519_key' - this may take some time ...", "done: SHA256:short root@x"],
    ],
)
def test_no_host_key_in_other_logs(log: list[str]) -> None:
    assert fingerprint_in(log) is None
    assert [line["t"] for line in data("unlocked_log_gone")] == ["unable to open file - No such file or directory"]


def test_starter_inventory_differs_only_in_values() -> None:
    text = starter(bundled_path("inventory.yaml").read_text(), "pve.lan", 8443, "AB:" * 31 + "CD")
    changed = [
        line for line in text.splitlines() if line not in bundled_path("inventory.yaml").read_text().splitlines()
    ]
    assert [line.split("#")[0].strip() for line in changed] == [
        "host: pve.lan",
        "port: 8443",
        'fingerprint: "' + "AB:" * 31 + 'CD"',
        "pool: homelab",
    ]
