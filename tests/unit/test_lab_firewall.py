"""Proxmox's firewall rules as nftables text that nft itself accepts."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from homelab.lab.host_firewall import TABLE, ruleset, statement

NET = {"net0": "name=eth0,bridge=hl-lab,firewall=1,hwaddr=BC:24:11:00:00:01,ip=10.99.2.67/24,type=veth"}
RULES: list[tuple[dict[str, Any], str]] = [
    (
        {"proto": "tcp", "dport": "22", "source": "192.168.2.0/24"},
        "ip saddr { 192.168.2.0/24 } meta l4proto tcp th dport { 22 } accept",
    ),
    (
        {"proto": "tcp", "dport": "80,8000:8010", "source": "10.0.0.1,10.0.0.2", "dest": "10.0.0.9"},
        "ip saddr { 10.0.0.1, 10.0.0.2 } ip daddr { 10.0.0.9 } meta l4proto tcp th dport { 80, 8000-8010 } accept",
    ),
    ({"proto": "icmp", "icmp-type": "echo-request"}, "meta l4proto icmp icmp type echo-request accept"),
    ({"proto": "udp", "sport": "53", "action": "REJECT"}, "meta l4proto udp th sport { 53 } reject"),
    ({"source": "fd00::1", "action": "DROP"}, "ip6 saddr { fd00::1 } drop"),
    ({}, "accept"),
]


@pytest.mark.parametrize(("rule", "text"), RULES)
def test_rule_as_nftables_statement(rule: dict[str, Any], text: str) -> None:
    assert statement({"type": "in", "action": "ACCEPT", **rule}) == text


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (NET, {}),
        (NET, {"enable": 0}),
        ({}, {"enable": 1}),
        ({"net0": NET["net0"].replace("firewall=1,", "")}, {"enable": 1}),
    ],
)
def test_ruleset_only_removes_the_table_when_off(config: dict[str, str], options: dict[str, int]) -> None:
    assert ruleset(config, options, [{"type": "in", "action": "ACCEPT", "enable": 1}]) == (
        f"table netdev {TABLE}\ndelete table netdev {TABLE}\ntable inet {TABLE}\ndelete table inet {TABLE}\n"
    )


def test_default_policies_are_proxmoxs_and_disabled_rules_are_skipped() -> None:
    lines = [
        line.strip()
        for line in ruleset(
            NET,
            {"enable": 1},
            [
                {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "22", "enable": 1},
                {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "23", "enable": 0},
            ],
        ).splitlines()
    ]
    first, second = (
        lines.index(f"type filter hook {hook} priority filter; policy accept;") for hook in ("input", "output")
    )
    assert lines[first + 1] == 'iifname != { "eth0" } accept'
    assert lines[second - 3 : second - 1] == ["drop", "}"]
    assert [line for line in lines if "th dport" in line] == ["meta l4proto tcp th dport { 22 } accept"]
    assert lines[-3] == "accept"


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"macfilter": 0}, []),
        ({}, ["ether saddr != BC:24:11:00:00:01 drop", "arp saddr ether != BC:24:11:00:00:01 drop"]),
        ({"macfilter": 0, "ipfilter": 1}, ["ip saddr != 10.99.2.67 drop", "arp saddr ip != 10.99.2.67 drop"]),
    ],
)
def test_addresses_of_others_are_dropped(options: dict[str, int], dropped: list[str]) -> None:
    text = ruleset(NET, {"enable": 1, **options}, []).partition("table inet homelab_firewall {")[0]
    assert [line.strip() for line in text.splitlines() if " != " in line] == dropped


DYNAMIC = {"net0": NET["net0"].replace("ip=10.99.2.67/24", "ip=dhcp")}
SET = {"ipfilter-net0": [{"cidr": "10.99.2.99"}, {"cidr": "2001:db8::5"}]}
NOT_99 = ["ip saddr != 10.99.2.99 drop", "arp saddr ip != 10.99.2.99 drop"]


@pytest.mark.parametrize(
    ("config", "options", "sets", "dropped"),
    [
        (DYNAMIC, {}, {}, []),
        (DYNAMIC, {"ipfilter": 1}, {}, ["meta protocol ip drop"]),  # an implicit empty set
        (DYNAMIC, {"ipfilter": 1}, SET, NOT_99),
        (DYNAMIC, {}, SET, NOT_99),  # the set alone is enforced
        (DYNAMIC, {}, {"ipfilter-net0": []}, ["meta protocol ip drop"]),
        (DYNAMIC, {"ipfilter": 1}, {"ipfilter-net1": SET["ipfilter-net0"]}, ["meta protocol ip drop"]),
        (NET, {"ipfilter": 1}, SET, [line.replace("10.99.2.99", "{ 10.99.2.67, 10.99.2.99 }") for line in NOT_99]),
    ],
)
def test_ip_set_adds_own_addresses(
    config: dict[str, str], options: dict[str, int], sets: dict[str, list[dict[str, str]]], dropped: list[str]
) -> None:
    text = ruleset(config, {"enable": 1, "macfilter": 0, **options}, [], sets)
    chain = [line.strip() for line in text.partition("table inet homelab_firewall {")[0].splitlines()]
    assert [line for line in chain if line.endswith("drop")] == dropped
    assert chain.index("udp sport 68 udp dport 67 accept") < min(map(chain.index, dropped), default=len(chain))


@pytest.mark.skipif(not shutil.which("nft"), reason="nft is not installed")
@pytest.mark.parametrize("sets", [{}, SET, {"ipfilter-net0": []}])
@pytest.mark.parametrize("config", [NET, DYNAMIC])
def test_nft_accepts_every_rule(config: dict[str, str], sets: dict[str, list[dict[str, str]]]) -> None:
    rules = [{"type": kind, "action": "ACCEPT", "enable": 1, **rule} for rule, _ in RULES for kind in ("in", "out")]
    text = ruleset(config, {"enable": 1, "policy_in": "REJECT", "policy_out": "DROP", "ipfilter": 1}, rules, sets)
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", "nft", "-c", "-f", "-"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
