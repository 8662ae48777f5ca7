"""`homelab tmux`: a tmux session whose panes follow the logs of the services and pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from homelab.model import Inventory
from homelab.runtime.tmux_session import TmuxSession, log_targets, session_name


def open_session(inventory: Inventory, program: Sequence[str]) -> TmuxSession:
    """Return the lab's session, which is created if it does not exist. Raises HomelabError.

    `program` are the words that run homelab with this inventory.
    """
    session = TmuxSession(session_name(inventory.lab))
    if not session.exists:
        session.create({target: [*program, "logs", "-f", *target.split()] for target in log_targets(inventory)})
    return session
