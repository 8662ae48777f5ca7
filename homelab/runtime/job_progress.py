"""A long command in a container, and how far it is while it goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import wait

from homelab.host import Host, Result
from homelab.runtime.concurrency import start
from homelab.services.analytics import ROOT

POLL_INTERVAL = 2.0  # seconds between two looks
# dbt's own log is long: of its last lines, those that tell how far a node has come.
DBT_LOG = f"tail -n 400 {ROOT}/data/logs/dbt.log 2>/dev/null | grep -a '\\[info \\]' | tail -n 3 || true"
_NODE = re.compile(r"\b(\d+ of \d+ (?:OK|PASS|WARN|FAIL|ERROR|SKIP)\b.*?)[ .]*\[")


def run_with_progress(job: Callable[[], Result], look: Callable[[], str], tell: Callable[[str], None]) -> Result:
    """What comes of a long command; what `look` says meanwhile is told, as soon as it says something new.

    Raises as `job` does.
    """
    running = start("followed", job)
    before = ""
    while wait([running], POLL_INTERVAL).not_done:
        said = look()
        if said and said != before:
            tell(said)
        before = said
    return running.result()


class DbtLog:
    """How far dbt is in a container: the newest node that has come to an end since this was made."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._old = self._last()

    def __call__(self) -> str:
        """As `12 of 36 PASS unique_weather_daily`; empty while there is nothing new."""
        found = self._last()
        return "" if found == self._old else found

    def _last(self) -> str:
        found = _NODE.findall(self._host.run(DBT_LOG).text)
        return found[-1] if found else ""
