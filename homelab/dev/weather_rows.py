"""The rows of the weather on this machine, from the replay of OpenWeather."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from homelab.dev import local_stack
from homelab.errors import HomelabError
from homelab.progress import Progress


def load_weather(stack: local_stack.Stack, hours: int, progress: Progress) -> int:
    """Load `hours` observations of each city; return the number of new ones. Raises HomelabError."""
    with progress.step("dev", f"the next {hours} hours of {len(local_stack.CITIES)} cities"):
        # A city that is listed twice is requested twice, and the replay advances an hour each time.
        cities = json.dumps([{"name": city} for _ in range(hours) for city in local_stack.CITIES])
        done = stack.script("ingest_weather.py", WEATHER_CITIES=cities)
    if done.returncode:
        raise HomelabError(
            "Cannot load the weather",
            done.stderr.strip()[-1500:],
            "Run it again; `homelab dev reset` starts from nothing.",
        )
    stored: int = last_line(done)["stored"]
    return stored


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the report that a script prints as its last line; an empty one without output."""
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found
