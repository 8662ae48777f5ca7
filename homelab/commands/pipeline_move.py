"""`homelab pipeline move`: move the history of a pipeline to the lake or to ClickHouse, or back to its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from homelab.errors import HomelabError, InputError
from homelab.host import argv, expected_format
from homelab.model import Inventory, Pipeline
from homelab.model.stages import ANALYTICS
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import SHARED_SCRIPTS, Layout
from homelab.runtime.marts import require_lake
from homelab.runtime.session import Session

Target = Literal["lake", "clickhouse", "file"]
SHOWN = {"lake": "the lake", "clickhouse": "ClickHouse", "file": "its file"}
_DEADLINE = 4 * 3600.0  # seconds; it copies and compares the whole history


@dataclass(frozen=True)
class Move:
    """The outcome of a move: the numbers of tables and rows, all of which were compared."""

    pipeline: str
    to: Target
    moved: bool
    tables: int
    rows: int

    def __str__(self) -> str:
        where = SHOWN[self.to]
        if not self.moved:
            return f"{self.pipeline}: the history is in {where} already"
        return f"{self.pipeline}: {self.tables} tables with {self.rows} rows copied to {where} and compared row by row"


def _require_place(inventory: Inventory, pipeline: Pipeline, target: Target) -> None:
    """Raise InputError if the inventory has no target for the move, or another one than it needs."""
    if pipeline.clickhouse and target != "lake":
        return
    if target == "clickhouse":
        raise InputError(
            f"Cannot move the history of {pipeline.name}: the pipeline has no ClickHouse",
            "The inventory has no `target: clickhouse` for it.",
            "Add it and run `homelab deploy`: docs/how-to/clickhouse.md.",
        )
    require_lake(inventory, pipeline.name, "move the history")


def move(session: Session, name: str | None, target: Target) -> Move:
    """Copy the history of a pipeline, compare every row, and switch its builds. Raises HomelabError."""
    pipeline = session.inventory.chosen_pipeline(name)
    _require_place(session.inventory, pipeline, target)
    container, layout = session.inventory.container_of(ANALYTICS), Layout(pipeline)
    script = argv("python", f"{SHARED_SCRIPTS}/move_target.py", "--data", layout.data, "--to", target)
    with session.connect(container) as host, session.progress.step(container.name, f"move {pipeline.name} to {target}"):
        result = host.run(layout.run(f"timeout {_DEADLINE:.0f} {script}"), timeout=_DEADLINE + 60)
    if not result.ok:
        error = result.stderr.decode(errors="replace").strip()[-1500:].removeprefix("error: ")
        missing = result.status == EXIT.nothing_published
        raise HomelabError(
            f"Cannot move the history of {pipeline.name}: "
            + ("there is none" if missing else "it could not be copied and compared"),
            error or f"move_target.py ended with status {result.status}.",
            "Nothing has changed: builds continue where they were. Fix the cause, then run the same command again.",
        )
    with expected_format(container.name, "read the outcome of the move"):
        outcome = json.loads(result.text.splitlines()[-1])
        return Move(pipeline.name, target, outcome["moved"], outcome["tables"], outcome["rows"])
