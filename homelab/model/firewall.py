"""A container's Proxmox firewall: the wanted rules, derived from its services' ports, and the changes. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from homelab.model import Container, Inventory
from homelab.model.endpoints import SSH_PORT, Endpoint
from homelab.model.inventory import name_without_instance
from homelab.model.stages import ANALYTICS
from homelab.model.web_uis import gateway_of, published_web_uis

OWNER = "homelab: "  # prefix of the comment of every rule of ours
NO_ADDRESS = "no address"  # in place of the addresses of an empty set, which drops everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A firewall rule of Proxmox. `more` has its other options, such as `log=info`."""

    direction: str = "in"
    action: str = "ACCEPT"
    source: str = ""  # an address or a network; empty: any
    proto: str = ""
    port: str = ""  # the destination port
    icmp: str = ""  # the ICMP type
    comment: str = ""
    enabled: bool = True
    more: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether homelab created the rule."""
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
    """A container's firewall: its switch, its default policies, its source filters, and its rules in order.

    The filters drop packets and ARP messages that the container sends with another address than its own.
    """

    on: bool = False
    policy_in: str = "DROP"
    policy_out: str = "ACCEPT"
    mac_filter: bool = True
    ip_filter: bool = False
    addresses: frozenset[tuple[str, str]] = frozenset()  # further own ones with their network card, for the IP filter
    rules: tuple[Rule, ...] = ()


def desired_firewall(inventory: Inventory, container: Container) -> Firewall:
    """Return the firewall that the inventory asks for: deny all inbound traffic except the declared ports."""
    if not container.shape.firewall:
        return Firewall()
    # Proxmox takes the fixed addresses of the IP filter from the configuration. Before DHCP has given an address, the
    # filter would drop everything.
    known = container.known_address is not None
    return Firewall(
        on=True,
        ip_filter=known,
        addresses=container.reported if known else frozenset(),
        rules=tuple(dict.fromkeys(_rules(inventory, container))),
    )


def _rules(inventory: Inventory, container: Container) -> Iterator[Rule]:
    for operator in inventory.network.ssh_allowed_from:
        yield _tcp(SSH_PORT, str(operator), "SSH for the operator")
    for other, service in inventory.services():
        if service.deploys and other.known_address:
            yield _tcp(SSH_PORT, str(other.known_address), f"SSH for {other.name}")
    for name, service in container.services.items():
        for endpoint in service.endpoints():
            for source, audience in clients(inventory, container, name, endpoint):
                yield _tcp(endpoint.port, source, f"{endpoint.description} for {audience}")
    for ui in published_web_uis(inventory.containers):
        if ui.gateway and ui.gateway.name == container.name and not ui.domain:
            yield _tcp(ui.port, str(inventory.network.subnet), f"{ui.endpoint.description} for the LAN")
    yield Rule(proto="icmp", icmp="echo-request", comment=f"{OWNER}ping")


def clients(inventory: Inventory, container: Container, name: str, endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """Yield the sources of an endpoint's clients with their descriptions, without the container itself.

    A container without an address yet is left out.
    """
    others = client_containers(inventory, container, name, endpoint)
    if others is None:
        yield str(inventory.network.subnet), "the LAN"
        return
    for other in others:
        if other.known_address:
            yield str(other.known_address), other.name


def client_containers(
    inventory: Inventory, container: Container, name: str, endpoint: Endpoint
) -> Sequence[Container] | None:
    """Return the containers of an endpoint's clients, without the container itself; None for the whole LAN.

    The readers of all metrics are clients of an endpoint that has some. The gateway is a client of a web UI, and takes
    the place of the LAN.
    """
    gateway = gateway_of(inventory.containers) if endpoint.web_ui and not _publishes(container, name) else None
    if endpoint.audience == "lan" and gateway is None:
        return None
    if endpoint.audience == "grantees":
        theirs = [other for other, _ in inventory.database_grants()]
    elif endpoint.audience == "publisher":
        theirs = list(inventory.containers_with(ANALYTICS))
    else:
        kind = name_without_instance(name)
        theirs = [other for other, service in inventory.services() if kind in (*service.requires, *service.uses)]
    theirs += [
        other for other in inventory.containers if {*endpoint.clients} & set(map(name_without_instance, other.services))
    ]
    if gateway:
        theirs.append(gateway)
    if endpoint.metrics_path:
        theirs += [other for other, service in inventory.services() if service.reads_metrics]
    return [other for other in theirs if other.name != container.name]


def _publishes(container: Container, name: str) -> bool:
    return container.services[name].publishes_web_uis


def _tcp(port: int, source: str, why: str) -> Rule:
    return Rule(proto="tcp", port=str(port), source=source.removesuffix("/32"), comment=f"{OWNER}{why}")


def lets_in_ssh(firewall: Firewall, source: IPv4Address) -> bool:
    """Check that a wanted firewall, in which every rule accepts traffic, lets SSH in from an address."""
    return any(rule.port == str(SSH_PORT) and source in IPv4Network(rule.source) for rule in firewall.rules)


def goal(want: Firewall, found: Firewall) -> Firewall:
    """Return the target state. If no firewall is wanted, switch it off and remove our rules, but keep all others."""
    if want.on:
        return want
    return replace(found, on=False, rules=tuple(rule for rule in found.rules if not rule.ours))


def changes(want: Firewall, found: Firewall) -> Iterator[str]:
    """Yield one line per difference between the wanted and the current firewall."""
    yield from (f"+ {rule}" for rule in _without(want.rules, found.rules))
    yield from (f"- {rule}" for rule in _without(found.rules, want.rules))
    if want.rules != found.rules and Counter(want.rules) == Counter(found.rules):
        yield "reorder its rules"
    if want.on:
        for policy in ("policy_in", "policy_out"):
            before, after = getattr(found, policy), getattr(want, policy)
            if before != after:
                yield f"{policy.replace('_', ' ')}: {before} → {after}"
        for name, before, after in (
            ("MAC filter", found.mac_filter, want.mac_filter),
            ("IP filter", found.ip_filter, want.ip_filter),
        ):
            if before != after:
                yield f"{name}: {_switch(before)} → {_switch(after)}"
    yield from (f"+ {card} may send from {address}" for card, address in sorted(want.addresses - found.addresses))
    yield from (f"- {card} may send from {address}" for card, address in sorted(found.addresses - want.addresses))
    if want.on != found.on:
        yield f"{_switch(found.on)} → {_switch(want.on)}"


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _without(rules: Sequence[Rule], others: Sequence[Rule]) -> list[Rule]:
    return list((Counter(rules) - Counter(others)).elements())


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert a rule before all others, as Proxmox does with new rules."""

    rule: Rule

    def __str__(self) -> str:
        return f"insert {self.rule}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the rule at a position, counted from 0."""

    position: int

    def __str__(self) -> str:
        return f"remove rule {self.position}"


@dataclass(frozen=True, slots=True)
class Move:
    """Move a rule before the one at position `to`."""

    position: int
    to: int

    def __str__(self) -> str:
        return f"move rule {self.position} to {self.to}"


def next_change(found: Sequence[Rule], want: Sequence[Rule]) -> Insert | Remove | Move | None:
    """Return the next change that turns `found` into `want`; None if they are equal.

    Insert rules first, then remove those that deny, then those that accept: traffic that both the old and the new rules
    accept is never denied in between.
    """
    if missing := _without(want, found):
        return Insert(missing[-1])
    if surplus := sorted(_without(found, want), key=lambda rule: rule.action == "ACCEPT"):
        return Remove(found.index(surplus[0]))
    for position, rule in enumerate(want):
        if found[position] != rule:
            return Move(list(found).index(rule, position), position)
    return None
