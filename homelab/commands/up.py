"""`homelab up`: create, update and start the containers of the inventory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homelab.plan import Plan, select_containers
from homelab.runtime.container_changes import Outcome, audited_client
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.provisioning import provision
from homelab.runtime.session import Session


def up(session: Session, *, confirm: Callable[[Plan], bool], limit: Sequence[str] = ()) -> Outcome:
    """Make the containers match the inventory and wait until they answer over SSH. Raises HomelabError.

    `confirm` decides on a plan that is not empty.
    """
    select_containers(session.inventory, limit)
    with lab_lock(session.inventory.state_dir, "up"):
        return provision(session, audited_client(session.inventory), confirm, limit)
