"""Proxmox's firewall of a container: the rules that follow from the ports of its services. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from homelab.model import Container, Inventory

OWNER = "homelab: "  # the prefix of the comments of our rules
_SSH = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule as Proxmox stores it; `more` are its further properties, such as `log=info`."""

    direction: str = "in"
    action: str = "ACCEPT"
    source: str = ""  # an address or a network; "": any
    proto: str = ""
    port: str = ""  # of the destination
    icmp: str = ""  # type of the ICMP message
    comment: str = ""
    enabled: bool = True
    more: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """True if homelab created the rule."""
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
    """The firewall of a container: on or off, the policies for unmatched packets, and its rules in order."""

    on: bool = False
    policy_in: str = "DROP"
    policy_out: str = "ACCEPT"
    rules: tuple[Rule, ...] = ()


def desired_firewall(inventory: Inventory, container: Container) -> Firewall:
    """Return the firewall that the inventory asks for: deny all inbound traffic except the declared ports."""
    if not container.shape.firewall:
        return Firewall()
    return Firewall(on=True, rules=tuple(dict.fromkeys(_rules(inventory, container))))


def _rules(inventory: Inventory, container: Container) -> Iterator[Rule]:
    for operator in inventory.network.ssh_allowed_from:
        yield _tcp(_SSH, str(operator), "SSH for the operator")
    for name, service in container.services.items():
        for port in service.ports():
            for source, client in _sources(inventory, container, name, port.audience):
                yield _tcp(port.port, source, f"{port.description} for {client}")
    yield Rule(proto="icmp", icmp="echo-request", comment=f"{OWNER}ping")


def _sources(inventory: Inventory, container: Container, service: str, audience: str) -> Iterator[tuple[str, str]]:
    """Yield the sources of an audience, each with its name. A container needs no rule to reach itself."""
    if audience == "lan":
        yield str(inventory.network.subnet), "the LAN"
        return
    if audience == "grantees":
        clients = [other for other, _ in inventory.database_grants()]
    else:
        clients = [c for c in inventory.containers if any(service in s.requires for s in c.services.values())]
    for other in clients:
        if other != container:
            yield str(other.address), other.name


def _tcp(port: int, source: str, purpose: str) -> Rule:
    return Rule(proto="tcp", port=str(port), source=source.removesuffix("/32"), comment=f"{OWNER}{purpose}")


def lets_in_ssh(firewall: Firewall, source: IPv4Address) -> bool:
    """Return True if a desired firewall, which has only allowing rules, allows SSH from that address."""
    return any(rule.port == str(_SSH) and source in IPv4Network(rule.source) for rule in firewall.rules)


def goal(want: Firewall, found: Firewall) -> Firewall:
    """Return the firewall to reach. If none is wanted, it is switched off without our rules; foreign rules stay."""
    if want.on:
        return want
    return replace(found, on=False, rules=tuple(rule for rule in found.rules if not rule.ours))


def changes(want: Firewall, found: Firewall) -> Iterator[str]:
    """Yield one line per difference between the wanted and the found firewall."""
    yield from (f"+ {rule}" for rule in _surplus(want.rules, found.rules))
    yield from (f"- {rule}" for rule in _surplus(found.rules, want.rules))
    if want.rules != found.rules and Counter(want.rules) == Counter(found.rules):
        yield "its rules in another order"
    if want.on:
        for field in ("policy_in", "policy_out"):
            before, after = getattr(found, field), getattr(want, field)
            if before != after:
                yield f"{field.replace('_', ' ')}: {before} → {after}"
    if want.on != found.on:
        yield "off → on" if want.on else "on → off"


def _surplus(rules: Sequence[Rule], others: Sequence[Rule]) -> list[Rule]:
    return list((Counter(rules) - Counter(others)).elements())


@dataclass(frozen=True, slots=True)
class Insert:
    """The insertion of a rule before all others, where Proxmox puts a new rule."""

    rule: Rule

    def __str__(self) -> str:
        return f"insert {self.rule}"


@dataclass(frozen=True, slots=True)
class Remove:
    """The removal of a rule; positions start at 0."""

    position: int

    def __str__(self) -> str:
        return f"remove rule {self.position}"


@dataclass(frozen=True, slots=True)
class Move:
    """The move of a rule before the rule at `to`."""

    position: int
    to: int

    def __str__(self) -> str:
        return f"move rule {self.position} to {self.to}"


def next_change(found: Sequence[Rule], want: Sequence[Rule]) -> Insert | Remove | Move | None:
    """Return the next change that leads from the found rules to the wanted ones, or None if they are equal.

    Missing rules are inserted first, and refusing rules are removed before allowing ones, so that no traffic that both
    allow is refused in between.
    """
    if missing := _surplus(want, found):
        return Insert(missing[-1])
    if unwanted := sorted(_surplus(found, want), key=lambda rule: rule.action == "ACCEPT"):
        return Remove(found.index(unwanted[0]))
    for position, rule in enumerate(want):
        if found[position] != rule:
            return Move(list(found).index(rule, position), position)
    return None
