"""`homelab tmux`: a tmux session with panes that follow the logs of services and pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from homelab.model import Inventory
from homelab.runtime.tmux_session import TmuxSession, log_targets, session_name


def open_session(inventory: Inventory, program: Sequence[str]) -> TmuxSession:
    """Return the lab's session; create a missing one. Raises HomelabError.

    `program` is the command of homelab with this inventory.
    """
    session = TmuxSession(session_name(inventory.lab))
    if not session.exists:
        session.create({target: [*program, "logs", "-f", *target.split()] for target in log_targets(inventory)})
    return session
