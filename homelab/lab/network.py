"""The lab's bridge, its guard route, and its nftables rules.

Containers reach the internet, and of this machine only the node's API, the weather replay and the lab's DHCP server.
No other traffic is forwarded for the lab, and other machines reach nothing at the bridge's address.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from homelab.errors import HomelabError
from homelab.lab.command import attempt, run, succeeds
from homelab.lab.settings import BRIDGES, GUARDED, Lab

# The highest metric that a route can have: every other route takes precedence over the guard.
GUARD_METRIC = 4278198272
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_LIMIT = "homelab_forwarding"  # the table that exists while homelab has turned forwarding on
# Networks that the containers may not reach: private networks that this machine may be connected to.
PRIVATE = "10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16"


def guarded() -> bool:
    """Check that the guard route is set."""
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "type", "unreachable"]) or "[]")
    return any(route.get("dst") == str(GUARDED) for route in routes)


def guard() -> bool:
    """Add the guard route, so that no packet for a lab leaves this machine; return whether it was missing."""
    if guarded():
        return False
    run(["ip", "-4", "route", "add", "unreachable", str(GUARDED), "metric", str(GUARD_METRIC)])
    return True


def unguard() -> None:
    """Remove the guard route, if it is the one that `guard` adds."""
    attempt(["ip", "-4", "route", "del", "unreachable", str(GUARDED), "metric", str(GUARD_METRIC)])


def bridge_exists(bridge: str) -> bool:
    """Check that a bridge of that name exists."""
    links = json.loads(run(["ip", "-j", "link", "show", "type", "bridge"]) or "[]")
    return any(link.get("ifname") == bridge for link in links)


def create_bridge(lab: Lab) -> None:
    """Create the bridge with the gateway's address and set it up."""
    if not bridge_exists(lab.bridge):
        # A fixed MAC: otherwise it changes with every container, and the gateway is unreachable for seconds.
        mac = "0a:48:" + ":".join(f"{byte:02x}" for byte in lab.gateway.packed)
        run(["ip", "link", "add", lab.bridge, "address", mac, "type", "bridge", "forward_delay", "0"])
    run(["ip", "addr", "replace", str(lab.interface), "dev", lab.bridge])
    run(["ip", "link", "set", lab.bridge, "up"])


def delete_bridge(lab: Lab) -> None:
    """Remove the bridge, after setting the guard route."""
    if bridge_exists(lab.bridge):
        guard()
        run(["ip", "link", "del", lab.bridge])


def nameservers(
    files: Sequence[Path] = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")),
) -> tuple[IPv4Address, ...]:
    """Return the host's IPv4 name servers that a container can reach. Raises HomelabError if there is none."""
    for file in files:
        if file.is_file() and (found := parse_nameservers(file.read_text())):
            return found
    raise HomelabError(
        "Cannot set up the lab's network: no name server that containers can reach",
        "/etc/resolv.conf names none, or only one on this machine's loopback.",
        "Add a line `nameserver <address>` with your network's name server to /etc/resolv.conf.",
    )


def parse_nameservers(text: str) -> tuple[IPv4Address, ...]:
    """Parse the `nameserver` lines of a resolv.conf, without loopback and IPv6 addresses."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            address = ip_address(words[1])
            if isinstance(address, IPv4Address) and not address.is_loopback:
                found.append(address)
    return tuple(found)


def table(lab: Lab) -> str:
    """Return the name of the lab's nftables table, which holds all of its rules."""
    return f"homelab_{lab.name}"


def ruleset(lab: Lab, resolvers: Sequence[IPv4Address]) -> str:
    """Render the lab's nftables table: NAT to the internet, no access to private networks and to this machine.

    Of this machine, containers reach the node's API, as on Proxmox, the weather replay, the DHCP server, and a name
    server if it runs here.
    """
    # If bridged frames pass through netfilter, masquerading must not affect traffic inside another lab's network.
    dns = ", ".join(str(resolver) for resolver in resolvers)
    name_server = f"ip daddr {{ {dns} }} meta l4proto {{ tcp, udp }} th dport 53 accept"
    return f"""table inet {table(lab)}
delete table inet {table(lab)}
table inet {table(lab)} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != {{ "lo", "{lab.bridge}" }} ip daddr {lab.gateway} reject with icmp type admin-prohibited
    iifname != "{lab.bridge}" accept
    ct state established,related accept
    ip daddr {lab.gateway} tcp dport {{ {lab.api_port}, {lab.replay_port} }} accept
    udp sport 68 udp dport 67 accept
    {name_server}
    reject with icmpx type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{lab.bridge}" oifname "{lab.bridge}" accept
    iifname "{lab.bridge}" {name_server}
    iifname "{lab.bridge}" ip daddr {{ {PRIVATE} }} reject with icmp type admin-prohibited
    iifname "{lab.bridge}" meta nfproto ipv6 reject with icmpv6 type admin-prohibited
    oifname "{lab.bridge}" ct state established,related accept
    oifname "{lab.bridge}" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {lab.subnet} ip daddr != {GUARDED} masquerade
  }}
}}
"""


def forward_for_labs() -> None:
    """Turn IPv4 forwarding on, for the labs' bridges only: this machine must not become a router for others."""
    rules = f"""table inet {_LIMIT}
delete table inet {_LIMIT}
table inet {_LIMIT} {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{BRIDGES}*" accept
    oifname "{BRIDGES}*" accept
  }}
}}
"""
    run(["nft", "-f", "-"], stdin=rules.encode())
    FORWARDING.write_text("1\n")


def restore_forwarding(before: str) -> None:
    """Restore the value of IPv4 forwarding that `forward_for_labs` has replaced, and remove its limit."""
    FORWARDING.write_text(f"{before}\n")
    _delete_table(_LIMIT)


def apply_rules(lab: Lab) -> None:
    """Load the lab's rules, replacing existing ones atomically."""
    run(["nft", "-f", "-"], stdin=ruleset(lab, nameservers()).encode())
    _open_closed_chains(lab)


def remove_rules(lab: Lab) -> None:
    """Remove the lab's rules and no others."""
    _delete_table(table(lab))
    for rule in _foreign_rules(lab):
        run(["iptables", "-w", "-D", *rule])


def _delete_table(name: str) -> None:
    if succeeds(["nft", "list", "table", "inet", name]):
        run(["nft", "delete", "table", "inet", name])


def _open_closed_chains(lab: Lab) -> None:
    # Docker and ufw set a DROP policy in iptables' chains, which an accept in our table cannot override. Our table
    # still limits the traffic that these rules accept.
    if not shutil.which("iptables"):
        return
    present = _foreign_rules(lab)
    for chain, match in (
        ("FORWARD", ["-i", lab.bridge]),
        ("FORWARD", ["-o", lab.bridge]),
        ("INPUT", ["-i", lab.bridge]),
    ):
        policy = run(["iptables", "-w", "-S", chain]).splitlines()[0]
        rule = [chain, *match, "-m", "comment", "--comment", _comment(lab), "-j", "ACCEPT"]
        if not policy.endswith(" ACCEPT") and rule not in present:
            run(["iptables", "-w", "-I", *rule])


def _foreign_rules(lab: Lab) -> list[list[str]]:
    if not shutil.which("iptables"):
        return []
    lines = run(["iptables", "-w", "-S"]).splitlines()
    return [words[1:] for words in map(shlex.split, lines) if words[0] == "-A" and _comment(lab) in words]


def _comment(lab: Lab) -> str:
    return f"homelab:{lab.name}"
