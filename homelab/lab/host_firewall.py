"""The node's firewall: a container's Proxmox options and rules as nftables rules in its network namespace.

Proxmox filters outside the container, out of reach of its root; here the container's root could remove the rules.
Packets are filtered in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fakepve import FakeCt, PveError
from fakepve.firewall import empty_conf

from homelab.errors import HomelabError
from homelab.lab import guest
from homelab.lab.hotplug import ConfigNode

TABLE = "homelab_firewall"
_DHCP_REQUEST, _DHCP_ANSWER = "udp sport 68 udp dport 67", "udp sport 67 udp dport 68"
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject"}
# The supported fields of a rule. Macros, groups, aliases and IP sets are defined outside it and are not supported.
_KNOWN = frozenset(
    {
        "type",
        "action",
        "proto",
        "dport",
        "sport",
        "source",
        "dest",
        "icmp-type",
        "enable",
        "comment",
        "log",
        "ipversion",
    }
)


def ruleset(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    ip_sets: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({}),
) -> str:
    """Render a container's nftables tables; if no device has the firewall, only remove existing tables.

    `ip_sets` has the entries of the container's IP sets by name.
    """
    filtered = {
        device.get("name", f"eth{number}"): (device, ip_sets.get(f"ipfilter-net{number}"))
        for number, device in guest.network_devices(config).items()
        if device.get("firewall") == "1"
    }
    devices = list(filtered)
    lines = [f"{verb} {family} {TABLE}" for family in ("netdev", "inet") for verb in ("table", "delete table")]
    if options.get("enable") and devices:
        lines += [
            f"table netdev {TABLE} {{",
            *(line for name, (device, own) in filtered.items() for line in _own_addresses(name, device, options, own)),
            "}",
            f"table inet {TABLE} {{",
            *_direction("in", "input", "iifname", devices, options, rules),
            *_direction("out", "output", "oifname", devices, options, rules),
            "}",
        ]
    return "\n".join(lines) + "\n"


def _own_addresses(
    name: str, device: Mapping[str, str], options: Mapping[str, Any], ip_set: Sequence[Mapping[str, Any]] | None
) -> Iterator[str]:
    """Yield the chain that drops packets and ARP messages of a device with another MAC or IPv4 address than its own.

    As on Proxmox, an existing IP set is enforced without the IP filter's switch, and DHCP always works.
    """
    yield f"  chain {name} {{"
    yield f'    type filter hook egress device "{name}" priority filter; policy accept;'
    yield f"    {_DHCP_REQUEST} accept"
    if options.get("macfilter", 1) and (mac := device.get("hwaddr")):
        yield f"    ether saddr != {mac} drop"
        yield f"    arp saddr ether != {mac} drop"
    fixed = [device["ip"].partition("/")[0]] if "/" in device.get("ip", "") else []
    own = [*fixed, *(entry["cidr"] for entry in ip_set or () if ":" not in entry["cidr"])]
    if options.get("ipfilter") or ip_set is not None:
        addresses = own[0] if len(own) == 1 else f"{{ {', '.join(own)} }}"
        yield f"    ip saddr != {addresses} drop" if own else "    meta protocol ip drop"
        yield from [f"    arp saddr ip != {addresses} drop"] if own else []
    yield "  }"


def _direction(
    direction: str,
    hook: str,
    match: str,
    devices: Sequence[str],
    options: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    policy = options.get(f"policy_{direction}", "DROP" if direction == "in" else "ACCEPT")
    names = ", ".join(f'"{device}"' for device in devices)
    yield f"  chain {hook} {{"
    yield f"    type filter hook {hook} priority filter; policy accept;"
    yield f"    {match} != {{ {names} }} accept"
    yield "    ct state invalid drop"
    yield "    ct state established,related accept"
    yield f"    {_DHCP_ANSWER if direction == 'in' else _DHCP_REQUEST} accept"
    yield "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept"
    yield from (f"    {statement(rule)}" for rule in rules if rule.get("enable") and rule["type"] == direction)
    yield f"    {_VERDICTS[policy]}"
    yield "  }"


def statement(rule: Mapping[str, Any]) -> str:
    """Render one rule as an nftables statement."""
    parts = []
    for key, word in (("source", "saddr"), ("dest", "daddr")):
        if value := rule.get(key):
            parts.append(f"{'ip6' if ':' in value else 'ip'} {word} {{ {value.replace(',', ', ')} }}")
    if proto := rule.get("proto"):
        parts.append(f"meta l4proto {proto}")
    for key in ("sport", "dport"):
        if value := rule.get(key):
            parts.append(f"th {key} {{ {value.replace(':', '-').replace(',', ', ')} }}")
    if kind := rule.get("icmp-type"):
        parts.append(f"icmp type {kind}")
    return " ".join([*parts, _VERDICTS[rule["action"]]])


class FirewallNode(ConfigNode):
    """Mixin that enforces the containers' firewalls."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._enforcing = asyncio.Lock()
        # Nothing else in the lab depends on the datacenter's switch, and no user could turn it on.
        self.firewall_config("cluster")["options"]["enable"] = 1

    def filter_of(self, ct: FakeCt) -> str:
        """Return the ruleset for the container's network namespace."""
        kept = self.firewall_config("ct", ct.node, ct.vmid)
        switched = self.firewall_config("cluster")["options"].get("enable")
        return ruleset(ct.config, kept["options"] if switched else {}, kept["rules"], kept["ipset"])

    def record(self, ct: FakeCt) -> dict[str, Any]:
        """Return a container's record, including its firewall."""
        kept = self.firewall_config("ct", ct.node, ct.vmid)
        return {**super().record(ct), "firewall": {key: kept[key] for key in ("options", "rules", "ipset")}}

    def load_firewall(self, vmid: int, record: Mapping[str, Any]) -> None:
        """Load a container's firewall from its record."""
        self.firewall_config("ct", vmid=vmid).update(empty_conf() | dict(record.get("firewall", {})))

    def _drop(self, ct: FakeCt) -> None:
        """Remove a container together with its firewall, as Proxmox does."""
        super()._drop(ct)
        self._fw()["guests"].pop(ct.vmid, None)

    async def _hotplug(self, ct: FakeCt, before: Mapping[str, Any]) -> None:
        await super()._hotplug(ct, before)
        await self._guard(ct)

    async def _fw_options_put(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_options_put(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_rule_create(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_rule_create(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_rule_update(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_rule_update(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_rule_delete(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_rule_delete(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_ipset_create(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_ipset_create(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_ipset_delete(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_ipset_delete(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_ip_create(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_ip_create(scope, v, user)
        await self._enforce(scope, v)

    async def _fw_ip_delete(self, scope: str, v: Mapping[str, Any], user: str) -> None:
        await super()._fw_ip_delete(scope, v, user)
        await self._enforce(scope, v)

    def _check_rule(self, scope: str, rule: dict[str, Any], conf: Any) -> Any:
        checked = super()._check_rule(scope, rule, conf)
        names = [rule.get(key, "") for key in ("source", "dest")]
        elsewhere = rule["type"] not in ("in", "out") or any(name[:1].isalpha() or name[:1] == "+" for name in names)
        if scope != "ct" or set(rule) - _KNOWN or elsewhere:
            raise PveError(501, "this node only supports container rules with addresses and ports")
        return checked

    async def _enforce(self, scope: str, v: Mapping[str, Any]) -> None:
        """Load the changed rules before the request is answered."""
        for ct in [ct for ct in self.cts if scope == "cluster" or ct.vmid == int(v.get("vmid", 0))]:
            self._refresh(ct)
            await self._guard(ct)
            self.save(ct)

    async def _guard(self, ct: FakeCt) -> None:
        async with self._enforcing:
            try:
                await asyncio.to_thread(self.runtime.guard, ct.vmid, self.filter_of(ct), ct.status == "running")
            except HomelabError as error:
                raise PveError(500, f"unable to enforce the firewall: {str(error).splitlines()[0]}") from error
