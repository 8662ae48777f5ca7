"""`homelab pipeline backfill`: store history in the raw table, from a file or from OpenWeather."""

from __future__ import annotations

from pathlib import Path

from homelab.errors import InputError
from homelab.model.stages import INGESTION
from homelab.pipeline_contract import EXIT
from homelab.runtime.backfills import DEADLINE, Backfilled, BackfillOptions, backfill_outcome, error_text
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.session import Session


def backfill_file(session: Session, file: Path, options: BackfillOptions) -> Backfilled:
    """Store a file's observations. Raises InputError if nothing in it can be stored."""
    layout = weather_layout(session.inventory)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file}", str(error), "Name a file of JSON or JSON lines.") from error
    container = session.inventory.container_of(INGESTION)
    command = layout.run(weather_words(layout, "backfill_file.py", *options.words()))
    action = f"store {file.name}"
    with session.connect(container) as host, session.progress.step(container.name, action):
        result = host.run(command, stdin=content, timeout=DEADLINE)
    if result.status == EXIT.bad_input:
        raise InputError(
            f"Cannot store {file}: nothing was stored",
            error_text(result),
            "It must hold OpenWeather's observations: one JSON object a line, or a list of them. See "
            "docs/how-to/history.md.",
        )
    return backfill_outcome(container.name, result, action)
