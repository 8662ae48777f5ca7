"""`homelab deploy`: bring the inside of each container to the desired state, in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from homelab.plan import select_containers
from homelab.runtime.convergence import HostReport, converge_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.session import Session


def deploy(
    session: Session, *, limit: Sequence[str] = (), dry_run: bool = False, rollback: bool = False
) -> Sequence[HostReport]:
    """Converge the containers; a failing one stops only those that wait for it. Raises HomelabError.

    With `rollback`, a container whose deploy fails goes back to its state before. Raises InputError, before anything
    is changed, if a rollback is not possible.
    """
    containers = select_containers(session.inventory, limit)
    if not rollback:
        with nullcontext() if dry_run else lab_lock(session.inventory.state_dir, "deploy"):
            return converge_containers(session, containers, dry_run)
    from homelab.runtime.rollback import DeployRollback  # it imports the Proxmox client, which other deploys do not

    with lab_lock(session.inventory.state_dir, "deploy"):
        return converge_containers(session, containers, rollback=DeployRollback(session))
