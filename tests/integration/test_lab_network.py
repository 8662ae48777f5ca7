"""The lab's rules and routes in a separate network namespace; this machine's are not changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.lab_fixture import in_a_lab

pytestmark = in_a_lab(120)

_PRELUDE = """
import json, shutil
from homelab.lab import LABS, network
from homelab.lab.command import attempt, run
lab, other = LABS["lab"], LABS["e2e"]
def rules():
    if not shutil.which("iptables"):
        return []
    return [line for line in run(["iptables", "-S"]).splitlines() if line.startswith("-A")]
def tables():
    return run(["nft", "list", "tables"])
"""


def in_namespace(story: str) -> Any:
    """Run a script in a temporary network namespace and return the JSON that it prints."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _PRELUDE + story],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_guard_route_is_added_once_and_restored_before_the_bridge_is_removed() -> None:
    found = in_namespace("""
seen = [network.guarded(), network.guard(), network.guard(), network.guarded()]
network.create_bridge(lab)
network.create_bridge(lab)
shown = json.loads(run(["ip", "-j", "addr", "show", lab.bridge]))[0]
seen += [shown["addr_info"][0]["local"], "UP" in shown["flags"], shown["address"]]
network.unguard()
network.delete_bridge(lab)
seen += [network.guarded(), network.bridge_exists(lab.bridge)]
network.delete_bridge(lab)
network.unguard()
network.unguard()
print(json.dumps([*seen, network.guarded()]))
""")
    assert found[:4] == [False, True, False, True]
    assert found[4:7] == ["10.99.2.1", True, "0a:48:0a:63:02:01"]
    assert found[7:] == [True, False, False]


def test_rules_are_replaced_and_removed_exactly() -> None:
    found = in_namespace("""
network.apply_rules(other)
network.apply_rules(lab)
network.apply_rules(lab)
both = tables(), rules()
network.remove_rules(lab)
network.remove_rules(lab)
print(json.dumps([both, tables(), rules()]))
""")
    (both, closed), left, rules = found
    assert both.splitlines() == ["table ip homelab_e2e", "table ip homelab_lab"]
    assert closed == [], "open chains need no rules of ours"
    assert left.splitlines() == ["table ip homelab_e2e"]
    assert rules == []


@pytest.mark.skipif(not shutil.which("iptables"), reason="iptables is not installed")
def test_lab_is_accepted_where_the_host_drops_by_default() -> None:
    found = in_namespace("""
run(["iptables", "-P", "FORWARD", "DROP"])
run(["iptables", "-A", "FORWARD", "-m", "comment", "--comment", "homelab:labour", "-j", "ACCEPT"])
network.apply_rules(lab)
network.apply_rules(lab)
closed = rules()
network.remove_rules(lab)
print(json.dumps([closed, rules()]))
""")
    during, after = found
    foreign = '-A FORWARD -m comment --comment "homelab:labour" -j ACCEPT'
    assert sorted(during) == sorted(
        [
            '-A FORWARD -i hl-lab -m comment --comment "homelab:lab" -j ACCEPT',
            '-A FORWARD -o hl-lab -m comment --comment "homelab:lab" -j ACCEPT',
            foreign,
        ]
    )
    assert after == [foreign]
