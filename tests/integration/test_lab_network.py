"""The lab's rules and routes in a separate network namespace; this machine's are not changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from ipaddress import ip_address
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
    assert both.splitlines() == ["table inet homelab_e2e", "table inet homelab_lab"]
    assert closed == [], "open chains need no rules of ours"
    assert left.splitlines() == ["table inet homelab_e2e"]
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


# Three machines: this one, a container on the bridge, and a neighbour on another network, to which this machine is the
# router if it forwards. `try_tcp` ends in seconds, also when packets are dropped.
_MACHINES = """
import atexit, os, subprocess, sys, time
def until(condition):
    while not condition():
        time.sleep(0.05)
def machine(link, address, gateway, attach=""):
    other = subprocess.Popen(["unshare", "--net", "sleep", "100"])
    atexit.register(other.kill)
    until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
    inside = ["nsenter", "--target", str(other.pid), "--net"]
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(other.pid)])
    if attach:
        run(["ip", "link", "set", link, "master", attach])
    run(["ip", "link", "set", link, "up"])
    for words in (["link", "set", "lo", "up"], ["link", "set", "eth0", "up"], ["addr", "add", address, "dev", "eth0"],
                  ["route", "add", "default", "via", gateway]):
        run([*inside, "ip", *words])
    return inside
def listen(inside, port):
    code = f"import socket as s; a = s.create_server(('::', {port}), family=s.AF_INET6, dualstack_ipv6=True)\\n"
    server = subprocess.Popen([*inside, "python3", "-c", code + "while True: a.accept()[0].close()"])
    atexit.register(server.kill)
    until(lambda: run([*inside, "ss", "-Hltn", f"sport = :{port}"]))
def try_tcp(inside, host, port):
    return subprocess.run(
        [*inside, "timeout", "2", "bash", "-c", f"</dev/tcp/{host}/{port}"], stderr=subprocess.DEVNULL
    ).returncode == 0
run(["ip", "link", "set", "lo", "up"])
network.create_bridge(lab)
network.nameservers = lambda: [network.ip_address("192.0.2.53")]
container = machine("ct", "10.99.2.67/24", "10.99.2.1", lab.bridge)
wide = machine("wide", "203.0.113.2/24", "203.0.113.1")
home = machine("home", "198.51.100.2/24", "198.51.100.1")
run(["ip", "addr", "add", "203.0.113.1/24", "dev", "wide"])
run(["ip", "addr", "add", "198.51.100.1/24", "dev", "home"])
here = []
"""


def test_containers_reach_only_the_api_and_the_replay_of_this_machine() -> None:
    found = in_namespace(
        _MACHINES
        + """
for port in (lab.replay_port, lab.api_port, 22):
    listen(here, port)
listen(container, 22)
for inside in (here, container):
    until(lambda: "inet6 fe80" in run([*inside, "ip", "addr"]) and "tentative" not in run([*inside, "ip", "addr"]))
local = json.loads(run(["ip", "-j", "-6", "addr", "show", "dev", lab.bridge]))[0]["addr_info"][0]["local"]
targets = [("10.99.2.1", lab.replay_port), ("10.99.2.1", 22), ("10.99.2.1", lab.api_port), ("203.0.113.1", 22),
           ("203.0.113.1", lab.replay_port), (f"{local}%eth0", 22)]
before = [try_tcp(container, *target) for target in targets]
network.apply_rules(lab)
during = [try_tcp(container, *target) for target in targets]
outwards = try_tcp(here, "10.99.2.67", 22)
others = [try_tcp(home, "10.99.2.1", port) for port in (lab.replay_port, lab.api_port)]
network.remove_rules(lab)
print(json.dumps([before, during, others, outwards, [try_tcp(container, *target) for target in targets]]))
"""
    )
    before, during, others, outwards, after = found
    assert before == after == [True] * 6
    assert during == [True, False, True] + [False] * 3
    assert others == [False, False], "other machines reach nothing at the bridge's address"
    assert outwards, "this machine reaches its containers"


def test_this_machine_forwards_for_the_lab_only_and_stops_afterwards() -> None:
    found = in_namespace(
        _MACHINES
        + """
listen(wide, 443)
listen(container, 443)
ways = [(container, "203.0.113.2"), (home, "203.0.113.2"), (home, "10.99.2.67"), (wide, "10.99.2.67")]
def states():
    return [try_tcp(inside, address, 443) for inside, address in ways] + [network.FORWARDING.read_text().strip()]
network.FORWARDING.write_text("0\\n")
network.apply_rules(lab)
before = states()
network.forward_for_labs()
network.forward_for_labs()
during = states()
network.restore_forwarding("0")
network.restore_forwarding("0")
network.remove_rules(lab)
print(json.dumps([before, during, states(), tables()]))
"""
    )
    assert found == [[False] * 4 + ["0"], [True, False, False, False, "1"], [False] * 4 + ["0"], ""]


_DISCOVER = """
import socket, struct, sys
packet = struct.pack("!4BIHH", 1, 1, 6, 0, 0x1234, 0, 0x8000) + bytes(16) + bytes.fromhex("0a4800000001") + bytes(202)
packet += bytes.fromhex("63825363" "350101" "ff")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    client.bind(("0.0.0.0", 68))
    client.settimeout(6)
    client.sendto(packet, ("10.99.2.1", 67))  # the guard of the tests refuses a broadcast
    try:
        print(socket.inet_ntoa(client.recv(1000)[16:20]))
    except TimeoutError:
        print("no answer")
"""


def test_dhcp_server_answers_on_the_bridge_of_the_lab_only() -> None:
    found = in_namespace(
        _MACHINES
        + f"discover = {_DISCOVER!r}"
        + """
import tempfile
from homelab.lab import dhcp
network.apply_rules(lab)
words = [word for word in dhcp.command(lab, network.nameservers()) if "leasefile" not in word]
with tempfile.TemporaryDirectory() as folder:
    server = subprocess.Popen([*words, f"--dhcp-leasefile={folder}/leases"], stderr=subprocess.DEVNULL)
    atexit.register(server.kill)
    until(dhcp.listens)
    offers = [run([*inside, sys.executable, "-c", discover]).strip() for inside in (container, home)]
    print(json.dumps([dhcp.listens(), offers]))
    server.kill()
    server.wait()
"""
    )
    listens, (offered, elsewhere) = found
    assert listens
    assert ip_address("10.99.2.96") <= ip_address(offered) <= ip_address("10.99.2.127")
    assert elsewhere == "no answer"
