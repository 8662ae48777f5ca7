"""The settings of the bridge, which homelab renders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from messages import is_critical

FILE = Path("/etc/homelab/alerts.json")
STATE = Path("/var/lib/homelab-alerts")


def read(file: Path) -> Mapping[str, Any]:
    """Return the settings."""
    found: Mapping[str, Any] = json.loads(file.read_text())
    return found


def is_quiet(settings: Mapping[str, Any], payload: Mapping[str, Any], now: datetime) -> bool:
    """Return True in the hours without messages, unless the alert has the excepted severity."""
    quiet = settings["quiet"]
    if not quiet or (quiet["except"] == "critical" and is_critical(payload)):
        return False
    start, end, time = quiet["from"], quiet["to"], f"{now:%H:%M}"
    return bool(start <= time < end if start < end else time >= start or time < end)
