"""Proxmox's firewall before a container: what may reach it, from what its services say they listen on. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from homelab.model import Container, Inventory

OWNER = "homelab: "  # how the comment of every rule of ours begins
_SSH = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule as Proxmox keeps it: whoever it allows or refuses what. What else it says is in `more`, as `log=info`."""

    direction: str = "in"
    action: str = "ACCEPT"
    source: str = ""  # an address or a network; none: anybody
    proto: str = ""
    port: str = ""  # the destination's
    icmp: str = ""  # the kind of ICMP message
    comment: str = ""
    enabled: bool = True
    more: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether homelab has made it."""
        return self.comment.startswith(OWNER)

    def __str__(self) -> str:
        words = [
            self.direction,
            self.action,
            self.proto,
            self.port,
            self.icmp,
            f"from {self.source}" if self.source else "",
            *self.more,
            f"({self.comment})" if self.comment else "",
            "" if self.enabled else "[disabled]",
        ]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """A container's firewall: whether it is on, what happens to what no rule is about, and its rules in order."""

    on: bool = False
    policy_in: str = "DROP"
    policy_out: str = "ACCEPT"
    rules: tuple[Rule, ...] = ()


def desired_firewall(inventory: Inventory, container: Container) -> Firewall:
    """What the inventory wants before a container: nothing gets in but what is said to be for somebody."""
    if not container.shape.firewall:
        return Firewall()
    return Firewall(on=True, rules=tuple(dict.fromkeys(_rules(inventory, container))))


def _rules(inventory: Inventory, container: Container) -> Iterator[Rule]:
    for operator in inventory.network.ssh_allowed_from:
        yield _tcp(_SSH, str(operator), "SSH for the operator")
    for name, service in container.services.items():
        for listen in service.ports():
            for source, who in _audience(inventory, container, name, listen.audience):
                yield _tcp(listen.port, source, f"{listen.what} for {who}")
    yield Rule(proto="icmp", icmp="echo-request", comment=f"{OWNER}ping")


def _audience(inventory: Inventory, container: Container, name: str, audience: str) -> Iterator[tuple[str, str]]:
    """The sources that an audience stands for, each with the words for it. A container reaches itself anyway."""
    if audience == "lan":
        yield str(inventory.network.subnet), "the LAN"
        return
    if audience == "accesses":
        theirs = [other for other, _ in inventory.database_grants()]
    else:
        theirs = [other for other in inventory.containers if any(name in s.requires for s in other.services.values())]
    for other in theirs:
        if other != container:
            yield str(other.address), other.name


def _tcp(port: int, source: str, why: str) -> Rule:
    return Rule(proto="tcp", port=str(port), source=source.removesuffix("/32"), comment=f"{OWNER}{why}")


def lets_in_ssh(firewall: Firewall, source: IPv4Address) -> bool:
    """Whether it lets SSH in from that address; all rules of a wanted one let something in."""
    return any(rule.port == str(_SSH) and source in IPv4Network(rule.source) for rule in firewall.rules)


def goal(want: Firewall, found: Firewall) -> Firewall:
    """What is to become of what was found. Where none is wanted, it is off and our rules go; others' may stay."""
    if want.on:
        return want
    return replace(found, on=False, rules=tuple(rule for rule in found.rules if not rule.ours))


def changes(want: Firewall, found: Firewall) -> Iterator[str]:
    """What is different in what is to come, line by line; nothing if all is as it should be."""
    yield from (f"+ {rule}" for rule in _beyond(want.rules, found.rules))
    yield from (f"- {rule}" for rule in _beyond(found.rules, want.rules))
    if want.rules != found.rules and Counter(want.rules) == Counter(found.rules):
        yield "its rules in another order"
    if want.on:
        for what in ("policy_in", "policy_out"):
            before, after = getattr(found, what), getattr(want, what)
            if before != after:
                yield f"{what.replace('_', ' ')}: {before} → {after}"
    if want.on != found.on:
        yield "off → on" if want.on else "on → off"


def _beyond(rules: Sequence[Rule], others: Sequence[Rule]) -> list[Rule]:
    return list((Counter(rules) - Counter(others)).elements())


@dataclass(frozen=True, slots=True)
class Insert:
    """Put a rule before all others, as Proxmox does with a new one."""

    rule: Rule

    def __str__(self) -> str:
        return f"insert {self.rule}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a rule away; positions are counted from 0."""

    position: int

    def __str__(self) -> str:
        return f"remove rule {self.position}"


@dataclass(frozen=True, slots=True)
class Move:
    """Put a rule before the one that stands at `to`."""

    position: int
    to: int

    def __str__(self) -> str:
        return f"move rule {self.position} to {self.to}"


def next_change(found: Sequence[Rule], want: Sequence[Rule]) -> Insert | Remove | Move | None:
    """The next of the changes that make the one of the other; None where nothing is left to do.

    What is to be let in is let in first, and what refuses goes before what allows: nothing that both let in is
    refused in between.
    """
    if missing := _beyond(want, found):
        return Insert(missing[-1])
    if surplus := sorted(_beyond(found, want), key=lambda rule: rule.action == "ACCEPT"):
        return Remove(found.index(surplus[0]))
    for position, rule in enumerate(want):
        if found[position] != rule:
            return Move(list(found).index(rule, position), position)
    return None
