"""SQL on the published marts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.host import Result, argv, expected_format
from homelab.model import Inventory
from homelab.model.stages import ANALYTICS
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import SHARED_SCRIPTS
from homelab.runtime.deployed_pipelines import deployed_pipeline
from homelab.runtime.session import Session

_DEADLINE = 600  # seconds

Rows = Sequence[dict[str, Any]]


def query_marts(session: Session, sql: str, name: str | None = None, at: datetime | None = None) -> Rows:
    """Return the rows of one statement on a pipeline's marts; without a name, those of `deployed_pipeline`.

    With `at`, the marts are those of the lake's last build at this time. Raises InputError for SQL that DuckDB refuses,
    and for a pipeline without a lake, else HomelabError.
    """
    pipeline = deployed_pipeline(session.inventory, name)
    if at:
        require_lake(session.inventory, pipeline.name, "query earlier marts")
    container = session.inventory.container_of(ANALYTICS)
    source = ("--at", at.isoformat()) if at else ("--database", pipeline.published)
    script = argv("python", f"{SHARED_SCRIPTS}/query.py", *source, "--", sql)
    with session.connect(container) as host:
        # `timeout` also ends a query after its connection was lost.
        result = host.run(pipeline.run(f"timeout {_DEADLINE} {script}"), timeout=_DEADLINE + 10)
    return parse_rows(
        result,
        container.name,
        verb="query",
        publish=f"`homelab pipeline run {pipeline.name}` builds and publishes them; `homelab status` shows problems.",
        resolution="Run `homelab deploy`: the scripts there may be of another version.",
    )


def require_lake(inventory: Inventory, name: str, action: str) -> None:
    """Raise InputError for a pipeline without a lake; `action` is what needs one."""
    if inventory.pipeline(name).lake is None:
        raise InputError(
            f"Cannot {action} of {name}: the pipeline has no lake",
            "The inventory has no `target: lake` for it.",
            "Add it and run `homelab deploy`: docs/how-to/lake.md.",
        )


def parse_rows(result: Result, where: str, *, verb: str, publish: str, resolution: str) -> Rows:
    """Return the rows in the output of query.py. Raises InputError for SQL that DuckDB refuses, else HomelabError.

    `verb` names the command for further queries, `publish` the way to published marts.
    """
    error = result.stderr.decode(errors="replace").strip()
    if result.status == EXIT.nothing_published and "the lake has no build" in error:
        raise InputError(
            "Cannot query the marts at this time: the lake has no build of it",
            error.splitlines()[-1].removeprefix("error: "),
            "Name a later time; `snapshot_retention` in the inventory keeps builds for longer.",
        )
    if result.status == EXIT.nothing_published:
        raise HomelabError(
            "Cannot query the marts: there are none",
            "No build was published yet, or the published file was removed.",
            publish,
        )
    if result.status == EXIT.failed and error.startswith("error: "):
        raise InputError(
            "Cannot run the query: DuckDB refuses it",
            error.removeprefix("error: ")[:1500],
            f'The tables: `homelab {verb} "show all tables"`',
        )
    if not result.ok:
        details = error[-1500:] or f"query.py ended with status {result.status}."
        raise HomelabError(f"Cannot run the query on {where}", details, resolution)
    with expected_format(where, "read the result of the query", resolution):
        rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows
