"""The prerequisites of `up` on the Proxmox side, as read-only checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from homelab.errors import HomelabError
from homelab.model import Container, Inventory
from homelab.plan import Clone, ObservedGuest, Plan, plan_up
from homelab.plan.template import Template
from homelab.proxmox import firewall_api
from homelab.proxmox.client import Client
from homelab.proxmox.golden_templates import with_goldens
from homelab.proxmox.inspect import find_guests
from homelab.proxmox.privileges import grant_lines, grants, pools, privileges_on, role_line
from homelab.proxmox.spreading import candidate_nodes
from homelab.proxmox.templates import Templates
from homelab.proxmox.vmids import resolve_vmids
from homelab.roles import TEMPLATES

_SKEW = 30.0  # the largest accepted difference of the clocks, in seconds
_GIB = 1 << 30
_DOWNLOADS = "Datastore.AllocateTemplate"
_SHOWN = 4  # the most paths in one line
Answering = Callable[[Sequence[IPv4Address]], Mapping[IPv4Address, str]]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `todo` has the lines that resolve a failed one."""

    name: str
    ok: bool
    said: str
    todo: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, error: HomelabError) -> Check:
        """Return the failed check for an error."""
        text = ". ".join(" ".join(part.split()).rstrip(".") for part in (error.brief, error.details) if part)
        return cls(name, False, f"{text}.", (error.resolution,))


def proxmox_checks(
    client: Client, inventory: Inventory, now: Callable[[], float], answering: Answering
) -> Iterator[Check]:
    """Yield every check, in the order in which failures should be resolved.

    `now` returns this machine's time in seconds since the epoch; `answering` maps each address in use to its response.
    """
    try:
        version = client.get("version")
    except HomelabError as error:
        yield Check.of("connection", error)
        return  # every other check needs the connection
    endpoint = inventory.endpoint
    trust = "pinned" if endpoint.fingerprint else f"signed by {endpoint.ca_file or 'a CA that this machine trusts'}"
    yield Check("connection", True, f"Proxmox VE {version['version']} at {endpoint.host}, certificate {trust}")
    yield Check("token", True, f"{endpoint.token_id} is accepted")
    try:
        nodes = {c.name: candidate_nodes(client, c) for c in inventory.containers}
        every = sorted({node for each in nodes.values() for node in each})
        yield from _privileges(client, inventory, every)
        yield from _pools(client, inventory)
        inventory = resolve_vmids(client, inventory)
        found = find_guests(client, inventory)
    except HomelabError as error:
        yield Check.of("node", error)
        return
    for node in every:
        theirs = [container for container in inventory.containers if node in nodes[container.name]]
        for name, check in (("clock", _clock), ("storage", _storages), ("bridge", _bridges), ("template", _templates)):
            try:
                yield from check(client, node, theirs, found, now)
            except HomelabError as error:
                yield Check.of(f"{name} on {node}", error)
    yield from _goldens(client, inventory, found)
    yield from _containers(inventory, found)
    yield from _addresses(inventory, found, answering)
    for note in firewall_api.notes(client, inventory.containers):
        yield Check(note.container, False, note.text)


def _privileges(client: Client, inventory: Inventory, nodes: Sequence[str]) -> Iterator[Check]:
    """Yield one check for each role, over all the paths on which it is needed."""
    token, granted = inventory.endpoint.token_id, grants(inventory, nodes)
    # One call returns all paths with grants; `held` derives the inherited privileges.
    permissions = client.get("access/permissions")
    for role in dict.fromkeys(role for roles in granted.values() for role in roles):
        paths = [path for path, roles in granted.items() if role in roles]
        missing = {
            path: lacking
            for path in paths
            if (lacking := [each for each in role.privileges if each not in privileges_on(permissions, path)])
        }
        gaps = "; ".join(f"{', '.join(lacking)} on {path}" for path, lacking in missing.items())
        yield Check(
            f"role {role.name}",
            not missing,
            f"missing, for the token or its user: {gaps}" if missing else f"complete on {_some(paths)}",
            (role_line(role, role.privileges), *grant_lines({path: [role] for path in missing}, token))
            if missing
            else (),
        )


def _pools(client: Client, inventory: Inventory) -> Iterator[Check]:
    wanted = pools(inventory)
    existing = {str(row["poolid"]) for row in client.get("pools")} if wanted else set()
    for pool in wanted:
        yield Check(
            f"pool {pool}",
            pool in existing,
            "exists" if pool in existing else "missing, or this token cannot see it",
            () if pool in existing else (f"pveum pool add {pool}",),
        )


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths) if len(paths) <= _SHOWN else f"{', '.join(paths[:_SHOWN])} and {len(paths) - _SHOWN} more"


def _clock(
    client: Client, node: str, _: Sequence[Container], __: Mapping[int, ObservedGuest], now: Callable[[], float]
) -> Iterator[Check]:
    skew = abs(float(client.get(f"nodes/{node}/time")["time"]) - now())
    yield Check(
        f"clock of {node}",
        skew <= _SKEW,
        f"{skew:.0f} s difference to this machine's",
        () if skew <= _SKEW else ("See `timedatectl` here and on the node: one of them is not synchronised.",),
    )


def _storages(
    client: Client,
    node: str,
    containers: Sequence[Container],
    found: Mapping[int, ObservedGuest],
    _: Callable[[], float],
) -> Iterator[Check]:
    rows = {str(row["storage"]): row for row in client.get(f"nodes/{node}/storage")}
    wanted: dict[str, set[str]] = {}
    for container in containers:
        wanted.setdefault(container.storage, set()).add("rootdir")
        wanted.setdefault(container.template_storage, set()).add("vztmpl")
        if container.backup_storage:
            wanted.setdefault(container.backup_storage, set()).add("backup")
    for name, kinds in wanted.items():
        disks = [_growth(c, found.get(c.vmid)) for c in containers if c.storage == name]
        yield _storage(name, node, rows.get(name), kinds, sum(disks))


def _storage(name: str, node: str, row: Mapping[str, Any] | None, kinds: set[str], needed: int) -> Check:
    title = f"storage {name} on {node}"
    if row is None:
        return Check(
            title,
            False,
            "missing, or this token cannot see it",
            ("Write a storage of the node in the inventory; `pvesm status` on the node lists them.",),
        )
    if not row.get("active"):
        return Check(title, False, "not active", (f"See `pvesm status --storage {name}` on the node.",))
    has = set(str(row["content"]).split(","))
    if kinds - has:
        return Check(
            title,
            False,
            f"accepts {', '.join(sorted(has))}, but not {', '.join(sorted(kinds - has))}",
            (f"pvesm set {name} --content {','.join(sorted(has | kinds))}",),
        )
    free = int(row["avail"]) // _GIB
    if needed > free:
        return Check(
            title,
            False,
            f"{free} GiB free, new disks need {needed} GiB",
            ("Free space on it, or write smaller disks or another storage in the inventory.",),
        )
    return Check(title, True, f"{free} GiB free, new disks need {needed} GiB")


def _growth(container: Container, guest: ObservedGuest | None) -> int:
    """Return the GiB by which a container's disk will grow."""
    have = guest.shape.disk if guest and guest.shape and guest.belongs_to(container) else 0
    return max(container.shape.disk - have, 0)


def _bridges(
    client: Client, node: str, containers: Sequence[Container], _: Mapping[int, ObservedGuest], __: Callable[[], float]
) -> Iterator[Check]:
    existing = {str(row["iface"]) for row in client.get(f"nodes/{node}/network", type="any_bridge")}
    for bridge in sorted({bridge for container in containers for bridge in container.shape.bridges}):
        yield Check(
            f"bridge {bridge} on {node}",
            bridge in existing,
            "exists"
            if bridge in existing
            else f"missing, or this token may not use it; there are {', '.join(sorted(existing)) or 'none'}",
            () if bridge in existing else ("Write a bridge of the node in the inventory.",),
        )


def _templates(
    client: Client, node: str, containers: Sequence[Container], _: Mapping[int, ObservedGuest], __: Callable[[], float]
) -> Iterator[Check]:
    templates = Templates(client)
    for container in {(c.template, c.template_storage): c for c in containers if not c.clone_from}.values():
        title = f"template {container.template} on {node}"
        try:
            template = templates.of(container, node)
            yield _download(client, title, template) if template.missing else Check(title, True, template.volume)
        except HomelabError as error:
            yield Check.of(title, error)


def _download(client: Client, title: str, template: Template) -> Check:
    path, token = f"/storage/{template.storage}", client.endpoint.token_id
    if _DOWNLOADS in privileges_on(client.get("access/permissions"), path):
        return Check(title, True, f"`homelab up` will download {template.file_name} to {template.storage}")
    return Check(
        title,
        False,
        f"cannot download {template.file_name} to {template.storage}: {_DOWNLOADS} on {path} "
        "is missing, for the token or its user",
        (
            role_line(TEMPLATES, (_DOWNLOADS,)),
            *grant_lines({path: [TEMPLATES]}, token),
            f"or, without that privilege: pveam download {template.storage} {template.file_name}",
        ),
    )


def _goldens(client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Iterator[Check]:
    """Yield one check per golden container that a missing container will be cloned from."""
    for container in inventory.containers:
        if not container.clone_from or container.vmid in found:
            continue
        title = f"golden container for {container.name}"
        try:
            (clone,) = with_goldens(client, inventory, Plan((Clone(container),))).actions
        except HomelabError as error:
            yield Check.of(title, error)
        else:
            yield Check(title, True, str(clone))


def _containers(inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Iterator[Check]:
    refusals = plan_up(inventory, found).refusals
    for refusal in refusals:
        yield Check("containers", False, f"{refusal.brief}: {refusal.details}", (refusal.resolution,))
    if not refusals:
        yield Check("containers", True, "each vmid is free or ours")


def _addresses(inventory: Inventory, found: Mapping[int, ObservedGuest], answering: Answering) -> Iterator[Check]:
    """Check that no other machine uses the address of a container that is missing or stopped."""
    fixed = [container for container in inventory.containers if not container.uses_dhcp]
    down = [container for container in fixed if _down(container, found.get(container.vmid))]
    responses = answering([container.address for container in down])
    conflicts = {
        container.name: responses.get(container.address) or _configured(container, found) for container in down
    }
    for container in down:
        if conflict := conflicts[container.name]:
            yield Check(
                f"address {container.address}",
                False,
                f"{conflict}, although {container.name} does not run",
                (f"Find the machine that uses it, or write another `ip` for {container.name} in the inventory.",),
            )
    if down and not any(conflicts.values()):
        yield Check("addresses", True, f"{_some([str(container.address) for container in down])} free")


def _down(container: Container, guest: ObservedGuest | None) -> bool:
    return guest is None or (guest.status == "stopped" and guest.belongs_to(container))


def _configured(container: Container, found: Mapping[int, ObservedGuest]) -> str:
    """Describe our other container that has this address in its configuration; empty if there is none."""
    return next(
        (
            f"{guest.name} ({guest.vmid}) is configured with it"
            for guest in found.values()
            if guest.vmid != container.vmid
            and guest.shape
            and isinstance(guest.shape.address, IPv4Interface)
            and guest.shape.address.ip == container.address
        ),
        "",
    )
