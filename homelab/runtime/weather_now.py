"""SQL on the newest readings of the weather, which are in PostgreSQL before they are in the marts."""

from __future__ import annotations

import json
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.host import expected_format
from homelab.model.stages import ANALYTICS
from homelab.pipeline_contract import EXIT
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.marts import Rows
from homelab.runtime.session import Session

_DEADLINE = 60  # seconds


def query_now(session: Session, sql: str) -> Rows:
    """Return the rows of one statement on `weather_now`. Raises InputError for SQL that PostgreSQL refuses."""
    layout, container = weather_layout(session.inventory), session.inventory.container_of(ANALYTICS)
    script = weather_words(layout, "query_now.py", "--", sql)
    with session.connect(container) as host:
        result = host.run(layout.run(f"timeout {_DEADLINE} {script}"), timeout=_DEADLINE + 10)
    error = result.stderr.decode(errors="replace").strip()
    if result.status == EXIT.bad_input and error.startswith("error: "):
        raise InputError(
            "Cannot run the query: PostgreSQL refuses it",
            error.removeprefix("error: ")[:1500],
            'The columns: `homelab query --now "select * from weather_now limit 1"`',
        )
    if not result.ok:
        raise HomelabError(
            f"Cannot query the newest readings on {container.name}: the script ended with status {result.status}",
            error[-1500:] or "It printed no error.",
            "`homelab status` shows the state of PostgreSQL; after an upgrade, run `homelab deploy`.",
        )
    with expected_format(container.name, "read the result of the query", "Run `homelab deploy`."):
        rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows
