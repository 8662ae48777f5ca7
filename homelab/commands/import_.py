"""`homelab import`: containers that exist get an entry in the inventory, and the lab's tags."""

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
    """What would be written and tagged, for a person to say yes or no to. `plan`: what `up` would do after it."""

    path: Path
    entries: Mapping[str, str]
    tagged: Mapping[str, Sequence[str]]
    remarks: Sequence[str]
    plan: Plan

    def __bool__(self) -> bool:
        return bool(self.entries or self.tagged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The containers that are in the inventory now and ours, and what is left to do.

    `let_in` has for each the commands that let homelab in, for its node; `nothing` is true where nothing was to do.
    """

    names: Sequence[str]
    plan: Plan
    let_in: Mapping[str, Sequence[str]]
    nothing: bool


def import_containers(
    paths: Sequence[Path], wanted: Sequence[int], *, public_key: str, confirm: Callable[[Proposal], bool]
) -> Imported | None:
    """Look, ask, write the entries, then set the tags; None if the answer is no, and then nothing is written.

    Run again after a kill, it does what is left. Raises HomelabError naming everything that stands against it.
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
        if entries:
            replace_text(inventory.path, before, after)
        # The entry first: what is tagged and in no inventory would be nobody's.
        for candidate in candidates:
            if candidate.name in proposal.tagged:
                tag(client, candidate.there, _ours(candidate, inventory))
        return _imported(client, load(paths), candidates, public_key, not proposal)


def _candidates(client: Client, inventory: Inventory, wanted: Sequence[int]) -> Sequence[Candidate]:
    found, permissions = guests(client, wanted), client.get("access/permissions")
    Plan(
        refusals=tuple(
            refusal
            for vmid in wanted
            for refusal in import_checks.refusals(inventory, vmid, found.get(vmid), permissions)
        )
    ).refuse_unsafe()
    return [Candidate(there, there.shape) for there in found.values() if there.shape]


def _ours(candidate: Candidate, inventory: Inventory) -> frozenset[str]:
    return candidate.shape.tags | lab_tags(inventory.lab)


def _adopted(candidate: Candidate, inventory: Inventory) -> Candidate:
    """As it will be with the tags."""
    tags = _ours(candidate, inventory)
    shape = replace(candidate.shape, tags=tags)
    return Candidate(replace(candidate.there, tags=tags, shape=shape), shape)


def _entries(
    client: Client, paths: Sequence[Path], text: str, inventory: Inventory, new: Sequence[Candidate]
) -> dict[str, dict[str, Any]]:
    """What the inventory has to say of each. What its defaults make of the least shows what else there is to say."""
    entries = {candidate.name: import_checks.least(inventory, candidate) for candidate in new}
    least = _checked(paths, insert_containers(text, inventory.path, entries), inventory)
    made = {container.name: container for container in least.containers}
    several = len(client.get("nodes")) > 1
    return {
        candidate.name: entries[candidate.name]
        | import_checks.further(made[candidate.name], _adopted(candidate, inventory), several)
        for candidate in new
    }


def _checked(paths: Sequence[Path], text: str, before: Inventory) -> Inventory:
    """The inventory that the text is, held against the one before: what was there has to be the same."""
    after, names = load(paths, text), {container.name for container in before.containers}
    # An overlay's own containers come after the new ones.
    if tuple(container for container in after.containers if container.name in names) != before.containers:
        raise HomelabError(
            "The inventory would not be the same with a new entry",
            f"An entry at the end of `containers:` in {before.path.name} changes what stands before it.",
            "Write the entry by hand, then run the same command again: it sets the tags.",
        )
    return after


def _proposal(
    inventory: Inventory, candidates: Sequence[Candidate], entries: Mapping[str, Mapping[str, Any]]
) -> Proposal:
    made = {container.name: container for container in inventory.containers}
    untagged = [candidate for candidate in candidates if _ours(candidate, inventory) != candidate.shape.tags]
    return Proposal(
        path=inventory.path,
        entries={name: "\n".join(entry(name, values)) for name, values in entries.items()},
        tagged={candidate.name: sorted(lab_tags(inventory.lab)) for candidate in untagged},
        remarks=[
            line
            for candidate in candidates
            if candidate.name in entries
            for line in import_checks.remarks(candidate, made[candidate.name], entries[candidate.name])
        ],
        plan=plan_up(
            inventory,
            {c.there.vmid: _adopted(c, inventory).there for c in candidates},
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
        let_in={candidate.name: _let_in(candidate.there, public_key) for candidate in candidates},
    )


def _let_in(there: ObservedGuest, public_key: str) -> Sequence[str]:
    """The commands for the node that put homelab's public key into a container."""
    inside = f"umask 077; mkdir -p /root/.ssh; echo {shlex.quote(public_key)} >> /root/.ssh/authorized_keys"
    start = [] if there.running else [f"pct start {there.vmid}"]
    return [*start, shlex.join(["pct", "exec", str(there.vmid), "--", "sh", "-c", inside])]
