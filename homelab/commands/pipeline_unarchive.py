"""`homelab pipeline unarchive`: move archived months of raw rows back to PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence

from homelab.errors import InputError
from homelab.host import check, expected_format
from homelab.model.stages import ANALYTICS
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.session import Session

_DEADLINE = 4 * 3600.0  # seconds; it may read years


def unarchive(session: Session) -> Sequence[str]:
    """Move all archived months of the weather back to PostgreSQL; return them, such as 2025-11.

    Raises InputError while the inventory archives months, HomelabError if a file is missing or has other rows.
    """
    inventory = session.inventory
    layout = weather_layout(inventory)
    if inventory.weather and inventory.weather.archive_months:
        raise InputError(
            "Cannot move archived months back: they would be archived again",
            f"{inventory.path} has `archive_months: {inventory.weather.archive_months}`.",
            "Remove it, run `homelab deploy`, then run the same command again.",
        )
    container = inventory.container_of(ANALYTICS)
    with session.connect(container) as host, session.progress.step(container.name, "read the archived months"):
        command = layout.run(weather_words(layout, "archive.py", "--restore"))
        result = check(host, command, "moving the archived months back", timeout=_DEADLINE)
    with expected_format(container.name, "read the moved months"):
        return [str(month) for month in json.loads(result.text.splitlines()[-1])]
