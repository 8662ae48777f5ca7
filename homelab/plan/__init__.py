"""What differs between the inventory and what was found, as actions. Pure: nothing here calls anything."""

from homelab.plan.actions import (
    Action,
    Clone,
    Create,
    Destroy,
    Guard,
    Join,
    Note,
    Plan,
    Refusal,
    Renew,
    Resize,
    Start,
    Stop,
    Update,
)
from homelab.plan.drift import COLD, Disk, drift
from homelab.plan.found import Found, Usage
from homelab.plan.making import chosen, plan_destroy, plan_up

__all__ = ["COLD", "Action", "Clone", "Create", "Destroy", "Disk", "Found", "Guard", "Join", "Note", "Plan",
           "Refusal", "Renew", "Resize", "Start", "Stop", "Update", "Usage", "chosen", "drift",
           "plan_destroy", "plan_up"]
