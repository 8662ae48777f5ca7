"""Progress of long commands in a container."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import wait

from homelab.host import Host, Result
from homelab.runtime.concurrency import start

POLL_INTERVAL = 2.0  # seconds
_NODE = re.compile(r"\b(\d+ of \d+ (?:OK|PASS|WARN|FAIL|ERROR|SKIP)\b.*?)[ .]*\[")


def run_with_progress(job: Callable[[], Result], read: Callable[[], str], report: Callable[[str], None]) -> Result:
    """Run a long command and return its result; report each new progress message that `read` returns.

    Raises the same errors as `job`.
    """
    running = start("job", job)
    before = ""
    while wait([running], POLL_INTERVAL).not_done:
        message = read()
        if message and message != before:
            report(message)
        before = message
    return running.result()


class DbtLog:
    """The progress of dbt in a container: the newest finished node since this object was made."""

    def __init__(self, host: Host, read_data: Callable[[str], str]) -> None:
        self._host = host
        # dbt's log is long; of its last lines, those that report a finished node.
        self._read = f'{read_data("logs/dbt.log")} | grep -aF \'"level": "info"\' | tail -n 3 || true'
        self._old = self._last()

    def __call__(self) -> str:
        """Return the node, such as `12 of 36 PASS unique_weather_daily`; empty if there is no new one."""
        found = self._last()
        return "" if found == self._old else found

    def _last(self) -> str:
        found = _NODE.findall(self._host.run(self._read).text)
        return found[-1] if found else ""
