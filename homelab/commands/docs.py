"""`homelab docs`: the dbt project's documentation, generated next to the warehouse and fetched."""

from __future__ import annotations

from homelab.host import argv, check
from homelab.runtime.session import Session
from homelab.services.analytics import PROJECT, SCRIPTS, as_analytics

_DEADLINE = 900.0  # seconds


def fetch(session: Session) -> bytes:
    """Return the documentation, one self-contained HTML page. Raises HomelabError if dbt cannot generate it."""
    container = session.inventory.container_with("analytics")
    command = as_analytics(argv("python", f"{SCRIPTS}/dbt_docs.py", "--project", PROJECT) + " >&2 && cat docs.html")
    with session.connect(container) as host, session.progress.step(container.name, "dbt docs generate"):
        return check(host, command, "generate the documentation", timeout=_DEADLINE).stdout
