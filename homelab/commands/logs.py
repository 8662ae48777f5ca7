"""`homelab logs`: the logs of several containers, merged by time."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from homelab.errors import InputError
from homelab.host import argv
from homelab.plan import select_containers
from homelab.runtime.journals import FIELDS, LEVELS, Journals, LogLine
from homelab.runtime.log_sources import LogSelection, file_sources, reader_command, units_of
from homelab.runtime.session import Session
from homelab.runtime.ssh_client import ssh_argv

_DURATION = re.compile(r"([0-9]+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SEARCHED = timedelta(days=1)  # by a search without `since`


@dataclass(frozen=True, slots=True)
class LogFilter:
    """The lines to show: the last `lines` of each container (None: all), of a level or worse, that match `grep`."""

    follow: bool = False
    lines: int | None = 100
    since: datetime | None = None
    level: str = "info"
    grep: re.Pattern[str] | None = None

    @property
    def searches(self) -> bool:
        """True if the filter omits most lines."""
        return self.grep is not None or self.level in LEVELS[:2]

    def begin(self, now: datetime) -> datetime | None:
        """Return the time of the first line to read; None: the last lines, by their number."""
        return self.since or (now - _SEARCHED if self.searches and not self.follow else None)

    def accepts(self, line: LogLine) -> bool:
        """Return True for a line to show."""
        severe = LEVELS.index(line.level) <= LEVELS.index(self.level)
        return severe and (self.grep is None or self.grep.search(line.text) is not None)


def parse_since(text: str, now: datetime) -> datetime:
    """Return a time from `30m`, `2h`, `1d`, or an ISO time, which is local without a zone. Raises InputError."""
    try:
        if found := _DURATION.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InputError(
            f"Cannot read the time {text}: it is neither a duration nor a time",
            "A duration is a number and one of s, m, h, d.",
            'Examples: `--since 30m`, `--since "2026-11-27 06:00"`',
        ) from None


def parse_pattern(text: str) -> re.Pattern[str]:
    """Return a compiled regular expression. Raises InputError."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(
            f"Cannot read the pattern {text}: {error}", "It is a regular expression.", "Put a \\ before ( [ * + ?"
        ) from None


def journal_command(units: Sequence[str], known: Sequence[str], chosen: LogFilter, now: datetime) -> str:
    """Return the shell text that prints a container's journal as JSON."""
    since = chosen.begin(now)
    words = ["journalctl", "--no-pager", "--quiet", "--output=json", f"--output-fields={','.join(FIELDS)}"]
    words += [f"--since=@{since.timestamp():.0f}"] if since else [f"--lines={chosen.lines or 0}"]
    words += [f"--unit={unit}" for unit in units] + ["--follow"] * chosen.follow
    words += ["--no-tail"] * (chosen.follow and since is not None)
    unknown = [unit for unit in units if unit not in known]
    # journalctl accepts unknown units.
    require_known = f"{argv('systemctl', 'cat', '--', *unknown)} >/dev/null && " if unknown else ""
    return require_known + argv(*words)


def file_limits(chosen: LogFilter, now: datetime) -> Mapping[str, Any]:
    """Return the limits of the journal for the lines of files."""
    since = chosen.begin(now)
    return {
        "lines": None if since else chosen.lines,
        "since": since.timestamp() if since else None,
        "priority": 7 if chosen.level == LEVELS[-1] else 6,
        "follow": chosen.follow,
    }


def logs(
    session: Session, selected: Mapping[str, LogSelection], chosen: LogFilter, now: datetime, statuses: dict[str, int]
) -> Iterator[LogLine]:
    """Yield the selected lines by time, with `follow` as they arrive. Raises HomelabError.

    At the end, `statuses` has the exit status of the programs or of OpenSSH's client by container.
    """
    commands = []
    for name, selection in selected.items():
        texts = []
        if selection.units is not None:
            known = units_of(session.inventory, select_containers(session.inventory, [name])[0])
            texts.append(journal_command(selection.units, known, chosen, now))
        if sources := list(file_sources(session.inventory, selection)):
            texts.append(reader_command(sources, file_limits(chosen, now)))
        commands += [(name, ssh_argv(session, name, [text], terminal=False)) for text in texts]
    with Journals(commands, statuses) as journals:
        lines = (line for line in journals if chosen.accepts(line))
        yield from lines if chosen.follow else sorted(_last(lines, chosen.lines))


def _last(lines: Iterator[LogLine], count: int | None) -> Iterator[LogLine]:
    """Yield the last lines of each container by time, and keep no others."""
    found: dict[str, list[LogLine]] = {}
    for line in lines:
        newest = found.setdefault(line.container, [])
        heapq.heappush(newest, line)
        if count is not None and len(newest) > count:
            heapq.heappop(newest)
    for each in found.values():
        yield from each
