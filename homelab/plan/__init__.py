"""What differs between the inventory and what was found, as actions. Pure: nothing here calls anything."""

from homelab.plan.actions import (
    Action,
    Create,
    Destroy,
    Plan,
    Refusal,
    Resize,
    Start,
    Stop,
    Update,
)
from homelab.plan.found import Found, Usage
from homelab.plan.making import COLD, chosen, plan_destroy, plan_up

__all__ = ["COLD", "Action", "Create", "Destroy", "Found", "Plan", "Refusal", "Resize", "Start", "Stop", "Update",
           "Usage", "chosen", "plan_destroy", "plan_up"]
