"""A container's firewall over the API: read it, and change it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from homelab.errors import HomelabError
from homelab.model import Container
from homelab.model.firewall import Firewall, Insert, Move, Remove, Rule, next_change
from homelab.plan import Note
from homelab.proxmox import ip_filter
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered

_FORBIDDEN = 403
_TRIES = 3  # attempts to send a change when the answers are lost
_PAUSE = 0.2  # seconds before reading the rules after a lost answer
_CHANGES = 500  # more than the rules of one container ever need
# Our fields and Proxmox's names for them.
_NAMES = {
    "direction": "type",
    "action": "action",
    "source": "source",
    "proto": "proto",
    "port": "dport",
    "icmp": "icmp-type",
    "comment": "comment",
}
_OFF = (
    "it is off for the whole datacenter, so the containers' rules have no effect yet. A user with Sys.Modify on / "
    "can switch it on at Datacenter > Firewall > Options or with `pvesh set /cluster/firewall/options --enable 1`. "
    "That also closes the nodes to all but their own network: read docs/how-to/firewall.md first"
)
_UNSEEN = (
    "this token cannot read the datacenter's switch, without which the containers' rules have no effect: check "
    "Datacenter > Firewall > Options, or give the token Sys.Audit on /"
)
_COVERED = frozenset({*_NAMES.values(), "enable", "pos", "digest", "ipversion"})


def read(client: Client, node: str, vmid: int, cards: Collection[str] = ()) -> Firewall:
    """Read a container's firewall, in two calls; more for the own addresses of network cards with DHCP or SLAAC."""
    return replace(
        _switches(client, node, vmid),
        addresses=ip_filter.read(client, _path(node, vmid, "ipset"), cards),
        rules=_rules(client, node, vmid)[0],
    )


def make(client: Client, node: str, vmid: int, goal: Firewall, cards: Collection[str] = ()) -> None:
    """Change the firewall to `goal` from any state; the next run continues after a kill. Raises HomelabError.

    The accepting rules and the own addresses are set before the firewall is switched on. The others are removed after
    it is switched off. `cards` have own addresses by DHCP or SLAAC.
    """
    if not goal.on:
        _switch(client, node, vmid, goal)
    _order(client, node, vmid, goal)
    if goal.on:
        sets = _path(node, vmid, "ipset")
        ip_filter.add(client, sets, goal.addresses)
        _switch(client, node, vmid, goal)
        ip_filter.remove_others(client, sets, goal.addresses, cards)


def notes(client: Client, containers: Iterable[Container]) -> Iterator[Note]:
    """Yield a note if the inventory wants a firewall but the datacenter's switch is off or unreadable.

    Homelab never changes that switch, which also closes the nodes. One call; none if no firewall is wanted.
    """
    if any(container.shape.firewall for container in containers) and not (on := _datacenter_on(client)):
        yield Note("firewall", _UNSEEN if on is None else _OFF)


def _datacenter_on(client: Client) -> bool | None:
    """Read the datacenter's switch; None if this token may not."""
    try:
        return _flag(client.get("cluster/firewall/options").get("enable"))
    except ProxmoxError as error:
        if error.status != _FORBIDDEN:
            raise
        return None


def _switches(client: Client, node: str, vmid: int) -> Firewall:
    """Read the switch, the policies and the filters, with Proxmox's defaults."""
    options = client.get(_path(node, vmid, "options"))
    return Firewall(
        on=_flag(options.get("enable")),
        policy_in=str(options.get("policy_in", "DROP")),
        policy_out=str(options.get("policy_out", "ACCEPT")),
        mac_filter=_flag(options.get("macfilter", 1)),
        ip_filter=_flag(options.get("ipfilter")),
    )


def _switch(client: Client, node: str, vmid: int, goal: Firewall) -> None:
    if _switches(client, node, vmid) == replace(goal, rules=(), addresses=frozenset()):
        return
    options: dict[str, Any] = {"enable": int(goal.on)}
    if goal.on:
        options |= {
            "policy_in": goal.policy_in,
            "policy_out": goal.policy_out,
            "macfilter": int(goal.mac_filter),
            "ipfilter": int(goal.ip_filter),
        }
    for _ in range(_TRIES):
        try:
            client.put(_path(node, vmid, "options"), **options)
            return
        except Unanswered as error:  # the call is idempotent, so repeat it
            lost = error
        time.sleep(_PAUSE)
    raise lost


def _order(client: Client, node: str, vmid: int, goal: Firewall) -> None:
    losses, inserted = 0, set[Insert]()
    for _ in range(_CHANGES):
        found, digest = _rules(client, node, vmid)
        change = next_change(found, goal.rules)
        if change is None:
            return
        if change in inserted:
            break
        try:
            _send(client, node, vmid, change, digest)
        except Unanswered:
            losses += 1
            if losses == _TRIES:
                raise
            time.sleep(_PAUSE)
        else:
            inserted |= {change} if isinstance(change, Insert) else set()
    raise HomelabError(
        f"Cannot set the firewall rules of {vmid}: they do not stay as set",
        f"This change is repeatedly undone: {change}. Another client changes the rules, or Proxmox "
        "stores them in another form.",
        "Check them in the web interface; run the same command again when no other client changes them.",
    )


def _send(client: Client, node: str, vmid: int, change: Insert | Remove | Move, digest: dict[str, str]) -> None:
    match change:
        case Insert(rule):
            client.post(_path(node, vmid, "rules"), **_parameters(rule))
        case Remove(position):
            client.delete(_path(node, vmid, f"rules/{position}"), **digest)
        case Move(position, to):
            client.put(_path(node, vmid, f"rules/{position}"), moveto=to, **digest)


def _rules(client: Client, node: str, vmid: int) -> tuple[tuple[Rule, ...], dict[str, str]]:
    """Return the rules in order, and the digest with which Proxmox detects concurrent changes."""
    rows = sorted(client.get(_path(node, vmid, "rules")), key=lambda row: int(row["pos"]))
    return tuple(_rule(row) for row in rows), {"digest": str(rows[0]["digest"])} if rows else {}


def _rule(row: Mapping[str, Any]) -> Rule:
    return Rule(
        **{field: str(row.get(name, "")) for field, name in _NAMES.items()},
        enabled=_flag(row.get("enable")),
        more=tuple(f"{name}={value}" for name, value in sorted(row.items()) if name not in _COVERED),
    )


def _parameters(rule: Rule) -> dict[str, Any]:
    named = {name: getattr(rule, field) for field, name in _NAMES.items()}
    return {name: value for name, value in named.items() if value} | {"enable": int(rule.enabled)}


def _path(node: str, vmid: int, below: str) -> str:
    return f"nodes/{node}/lxc/{vmid}/firewall/{below}"


def _flag(value: object) -> bool:
    return str(value or 0) not in ("0", "False")
