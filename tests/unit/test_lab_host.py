"""The lab's changes of this machine: rules, routes, ids and limits, as text and as files."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from homelab.lab import LABS, Lab, cgroups, dhcp, network, subids
from homelab.lab.machine import MissingRequirement, requirements_error
from homelab.lab.measure import Sample, folder_size, share
from homelab.lab.settings import GUARDED


def test_lab_json_round_trip() -> None:
    lab = Lab("x", IPv4Network("10.99.2.192/26"), "hl-x", 1, 2)
    assert Lab.from_json(lab.to_json()) == lab


def test_labs_can_run_in_parallel() -> None:
    labs = list(LABS.values())
    for attribute in ("name", "bridge", "api_port", "replay_port", "gateway", "state_dir"):
        assert len({getattr(lab, attribute) for lab in labs}) == len(labs)
    assert all(lab.subnet.subnet_of(GUARDED) for lab in labs)
    assert LABS["e2e"].gateway == IPv4Address("10.99.2.129")
    assert str(LABS["e2e"].interface) == "10.99.2.129/25"


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("10.99.2.0/24", "10.99.2.96,10.99.2.127,255.255.255.0"),
        ("10.99.2.128/25", "10.99.2.176,10.99.2.191,255.255.255.128"),
        ("10.99.2.112/28", "10.99.2.118,10.99.2.119,255.255.255.240"),
    ],
)
def test_dhcp_server_answers_on_the_bridge_only_and_is_no_name_server(subnet: str, addresses: str) -> None:
    words = dhcp.command(Lab("x", IPv4Network(subnet), "hl-x", 1, 2), [IPv4Address("9.9.9.9"), IPv4Address("10.0.0.1")])
    assert {"--interface=hl-x", "--except-interface=lo", "--bind-interfaces", "--port=0"} <= set(words)
    assert f"--dhcp-range={addresses},1h" in words
    assert "--dhcp-option=option:dns-server,9.9.9.9,10.0.0.1" in words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.0.0.53\n", ("10.0.0.53",)),
        (
            "# nameserver 1.2.3.4\nsearch lan\nnameserver 10.0.0.1\nnameserver 10.0.0.2 # second\n",
            ("10.0.0.1", "10.0.0.2"),
        ),
        ("nameserver 127.0.0.53\noptions edns0\n", ()),
        ("nameserver fe80::1%eth0\nnameserver ::1\n", ()),
        ("nameserver\n", ()),
        ("", ()),
    ],
)
def test_parse_nameservers_skips_unreachable_addresses(text: str, found: tuple[str, ...]) -> None:
    assert tuple(map(str, network.parse_nameservers(text))) == found


def test_nameservers_come_from_the_first_usable_file(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 10.0.0.1\n")
    assert network.nameservers([tmp_path / "none", stub, real]) == (IPv4Address("10.0.0.1"),)


def test_ruleset_is_one_table_with_dns_before_private_networks() -> None:
    rules = network.ruleset(LABS["e2e"], [IPv4Address("10.0.0.53"), IPv4Address("9.9.9.9")])
    assert rules.count("table inet homelab_e2e") == 3  # created, deleted, created: one atomic replacement
    assert "ip saddr 10.99.2.128/25 ip daddr != 10.99.2.0/24 masquerade" in rules
    assert [line.strip() for line in rules.splitlines() if "udp" in line and "53" not in line] == [
        "udp sport 68 udp dport 67 accept"
    ]
    dns, private = rules.index("10.0.0.53, 9.9.9.9"), rules.index("192.168.0.0/16")
    assert dns < private, "a private name server is allowed before private networks are refused"


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("root:100000:65536\n", True),
        ("0:100000:65536\n", True),
        ("root:65536:1000000\n", True),
        ("root:100000:65535\n", False),
        ("root:100001:65536\n", False),
        ("somebody:100000:65536\n", False),
        ("root:x:y\nroot\n", False),
        ("", False),
    ],
)
def test_covers_the_containers_id_range(text: str, covered: bool) -> None:
    assert subids.covers(text) is covered


@pytest.mark.parametrize("before", [None, "", "somebody:200000:65536\n", "somebody:200000:65536"])
def test_grant_is_idempotent_and_revoke_restores(tmp_path: Path, before: str | None) -> None:
    file = tmp_path / "subuid"
    if before is not None:
        file.write_text(before)
    assert subids.grant([file]) == [str(file)]
    assert subids.covers(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o644
    assert subids.grant([file]) == []
    subids.revoke([str(file)])
    assert file.read_text().strip() == (before or "").strip()


def test_limits_for_cgroup_v1_and_v2() -> None:
    config = {"memory": 1024, "swap": 512, "cores": 2}
    assert cgroups.limits(config, unified=True) == {
        "memory.max": "1073741824",
        "memory.swap.max": "536870912",
        "cpu.max": "200000 100000",
    }
    assert cgroups.limits(config, unified=False) == {
        "memory.limit_in_bytes": "1073741824",
        "memory.memsw.limit_in_bytes": "1610612736",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "200000",
    }


def test_without_cores_the_cpu_is_unlimited() -> None:
    assert cgroups.limits({}, unified=True)["cpu.max"] == "max 100000"
    assert cgroups.limits({}, unified=False)["cpu.cfs_quota_us"] == "-1"


@pytest.mark.parametrize(("cpu", "cpus", "expected"), [(1.0, 1, 0.5), (1.0, 2, 0.25), (0.0, 1, 0.0), (-5.0, 1, 0.0)])
def test_cpu_share_is_relative_to_the_containers_cpus(cpu: float, cpus: int, expected: float) -> None:
    assert share(Sample(10, 100), Sample(12, 100 + cpu), cpus) == expected


def test_cpu_share_without_elapsed_time_is_zero() -> None:
    assert share(Sample(10, 100), Sample(10, 101), 1) == 0


def test_folder_size_is_disk_usage(tmp_path: Path) -> None:
    empty = folder_size(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert 100_000 <= folder_size(tmp_path) - empty < 130_000
    assert folder_size(tmp_path / "none") == 0


def test_missing_requirements_are_listed_with_the_apt_command() -> None:
    error = requirements_error(
        [
            MissingRequirement(sentence, package)
            for sentence, package in (
                ("lxc-start is not installed", "lxc"),
                ("nft is not installed", "nftables"),
                ("newuidmap is not installed", "uidmap"),
                ("no cgroups", ""),
            )
        ]
    )
    assert "- lxc-start is not installed" in error.details
    assert "- no cgroups" in error.details
    assert error.resolution == "As root: apt-get install lxc nftables uidmap"
