"""`homelab import`: entries in the inventory and the tags of the lab for existing containers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.inventory.yaml_edit import entry, insert_containers, read_text, replace_text
from homelab.model import Inventory, lab_tags
from homelab.plan import ObservedGuest, Plan, plan_up
from homelab.proxmox import Client, find_guests, vmids
from homelab.proxmox.adoption import guests, tag
from homelab.runtime import import_checks
from homelab.runtime.container_changes import audited_client
from homelab.runtime.import_checks import Candidate
from homelab.runtime.lab_lock import lab_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The entries and tags to be confirmed; `plan` has the changes that `homelab up` would make afterwards."""

    path: Path
    entries: Mapping[str, str]
    tagged: Mapping[str, Sequence[str]]
    remarks: Sequence[str]
    plan: Plan

    def __bool__(self) -> bool:
        return bool(self.entries or self.tagged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The imported containers, and the remaining actions.

    `let_in` has the commands for each container's node that allow homelab to log in; `nothing` is True if there was
    nothing to do.
    """

    names: Sequence[str]
    plan: Plan
    let_in: Mapping[str, Sequence[str]]
    nothing: bool


def import_containers(
    paths: Sequence[Path], wanted: Sequence[int], *, public_key: Callable[[], str], confirm: Callable[[Proposal], bool]
) -> Imported | None:
    """Check the containers, ask for confirmation, write the entries, then set the tags.

    Returns None if the answer is no; nothing is written then. `public_key` is called after a yes, as it may create the
    key pair. A second run continues after a kill. Raises HomelabError with all reasons against an import.
    """
    inventory = load(paths)
    with lab_lock(inventory.state_dir, "import"):
        client = audited_client(inventory)
        settled = vmids.resolve_vmids(client, inventory)
        candidates = _candidates(client, settled, list(dict.fromkeys(wanted)))
        before = read_text(inventory.path)
        new = [candidate for candidate in candidates if not candidate.in_(settled)]
        entries = _entries(client, paths, before, inventory, new) if new else {}
        after = insert_containers(before, inventory.path, entries) if entries else before
        proposal = _proposal(_checked(paths, after, inventory), candidates, entries)
        if proposal and not confirm(proposal):
            return None
        key = public_key()
        if entries:
            replace_text(inventory.path, before, after)
        # The entry first: a tagged container without an entry would belong to no inventory.
        for candidate in candidates:
            if candidate.name in proposal.tagged:
                tag(client, candidate.guest, _tags_after(candidate, inventory))
        return _imported(client, load(paths), candidates, key, not proposal)


def _candidates(client: Client, inventory: Inventory, wanted: Sequence[int]) -> Sequence[Candidate]:
    found, permissions = guests(client, wanted), client.get("access/permissions")
    Plan(
        refusals=tuple(
            refusal
            for vmid in wanted
            for refusal in import_checks.refusals(inventory, vmid, found.get(vmid), permissions)
        )
    ).refuse_unsafe()
    return [Candidate(guest, guest.shape) for guest in found.values() if guest.shape]


def _tags_after(candidate: Candidate, inventory: Inventory) -> frozenset[str]:
    return candidate.shape.tags | lab_tags(inventory.lab)


def _with_tags(candidate: Candidate, inventory: Inventory) -> Candidate:
    """Return the container as it will be with the tags."""
    tags = _tags_after(candidate, inventory)
    shape = replace(candidate.shape, tags=tags)
    return Candidate(replace(candidate.guest, tags=tags, shape=shape), shape)


def _entries(
    client: Client, paths: Sequence[Path], text: str, inventory: Inventory, new: Sequence[Candidate]
) -> dict[str, dict[str, Any]]:
    """Return the entries: the required keys, and those in which a container differs from the defaults."""
    entries = {candidate.name: import_checks.required_keys(inventory, candidate) for candidate in new}
    parsed = _checked(paths, insert_containers(text, inventory.path, entries), inventory)
    with_defaults = {container.name: container for container in parsed.containers}
    several_nodes = len(client.get("nodes")) > 1
    return {
        candidate.name: entries[candidate.name]
        | import_checks.optional_keys(with_defaults[candidate.name], _with_tags(candidate, inventory), several_nodes)
        for candidate in new
    }


def _checked(paths: Sequence[Path], text: str, before: Inventory) -> Inventory:
    """Parse the new text and check that existing entries are unchanged."""
    after, names = load(paths, text), {container.name for container in before.containers}
    # An overlay's own containers come after the new ones.
    if tuple(container for container in after.containers if container.name in names) != before.containers:
        raise HomelabError(
            "Cannot write the entry: it would change other entries",
            f"An entry at the end of `containers:` in {before.path.name} changes the entries before it.",
            "Write the entry by hand, then run the same command again: it sets the tags.",
        )
    return after


def _proposal(
    inventory: Inventory, candidates: Sequence[Candidate], entries: Mapping[str, Mapping[str, Any]]
) -> Proposal:
    containers = {container.name: container for container in inventory.containers}
    untagged = [candidate for candidate in candidates if _tags_after(candidate, inventory) != candidate.shape.tags]
    return Proposal(
        path=inventory.path,
        entries={name: "\n".join(entry(name, values)) for name, values in entries.items()},
        tagged={candidate.name: sorted(lab_tags(inventory.lab)) for candidate in untagged},
        remarks=[
            line
            for candidate in candidates
            if candidate.name in entries
            for line in import_checks.remarks(candidate, containers[candidate.name], entries[candidate.name])
        ],
        plan=plan_up(
            inventory,
            {c.guest.vmid: _with_tags(c, inventory).guest for c in candidates},
            [candidate.name for candidate in candidates],
        ),
    )


def _imported(
    client: Client, inventory: Inventory, candidates: Sequence[Candidate], public_key: str, nothing: bool
) -> Imported:
    names = [candidate.name for candidate in candidates]
    settled = vmids.resolve_vmids(client, inventory)
    return Imported(
        names=names,
        plan=plan_up(settled, find_guests(client, settled), names),
        nothing=nothing,
        let_in={candidate.name: _let_in(candidate.guest, public_key) for candidate in candidates},
    )


def _let_in(guest: ObservedGuest, public_key: str) -> Sequence[str]:
    """Return the commands for the node that add homelab's public key to a container."""
    # The line feed first: the last line of an existing file may have none.
    key = shlex.quote(public_key)
    script = f"umask 077; mkdir -p /root/.ssh; printf '\\n%s\\n' {key} >> /root/.ssh/authorized_keys"
    start = [] if guest.running else [f"pct start {guest.vmid}"]
    return [*start, shlex.join(["pct", "exec", str(guest.vmid), "--", "sh", "-c", script])]
