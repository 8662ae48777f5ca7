"""The differences between the inventory and the observed guests, as actions. Pure: no I/O."""

from homelab.plan.actions import (
    Action,
    Clone,
    Create,
    Destroy,
    MoveToPool,
    Note,
    Plan,
    Refusal,
    RegenerateIdentity,
    Resize,
    Start,
    Stop,
    Update,
    UpdateFirewall,
)
from homelab.plan.drift import Disk, drift
from homelab.plan.leases import filtered_cards, refused_lease, with_leases
from homelab.plan.observed_guest import ObservedGuest, Usage
from homelab.plan.planner import orphan_notes, plan_destroy, plan_orphans, plan_up, select_containers

__all__ = [
    "Action",
    "Clone",
    "Create",
    "Destroy",
    "Disk",
    "MoveToPool",
    "Note",
    "ObservedGuest",
    "Plan",
    "Refusal",
    "RegenerateIdentity",
    "Resize",
    "Start",
    "Stop",
    "Update",
    "UpdateFirewall",
    "Usage",
    "drift",
    "filtered_cards",
    "orphan_notes",
    "plan_destroy",
    "plan_orphans",
    "plan_up",
    "refused_lease",
    "select_containers",
    "with_leases",
]
