"""`homelab docs`: the dbt project's documentation, generated next to the warehouse and fetched."""

from __future__ import annotations

from homelab.host import check
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.session import Session

_DEADLINE = 900.0  # seconds


def fetch(session: Session) -> bytes:
    """Return the documentation, one self-contained HTML page. Raises HomelabError if dbt cannot generate it."""
    layout = weather_layout(session.inventory)
    container = session.inventory.container_with("analytics")
    command = layout.run(f"{weather_words(layout, 'dbt_docs.py')} >&2 && cat docs.html")
    with session.connect(container) as host, session.progress.step(container.name, "dbt docs generate"):
        return check(host, command, "generate the documentation", timeout=_DEADLINE).stdout
