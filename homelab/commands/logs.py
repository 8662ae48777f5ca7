"""`homelab logs`: the journals of several containers, merged by time."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from homelab.errors import InputError
from homelab.host import argv
from homelab.model import Container, Inventory
from homelab.plan import select_containers
from homelab.runtime.journals import FIELDS, LEVELS, Journals, LogLine
from homelab.runtime.session import Session
from homelab.runtime.ssh_client import ssh_argv

_DURATION = re.compile(r"(\d+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SEARCHED = timedelta(days=1)  # by a search without `since`


@dataclass(frozen=True, slots=True)
class LogFilter:
    """The lines to show: the last `lines` of each container (None: all), of a level or worse, that match `grep`."""

    follow: bool = False
    lines: int | None = 100
    since: datetime | None = None
    level: str = "debug"
    grep: re.Pattern[str] | None = None

    @property
    def searches(self) -> bool:
        """True if some lines of the journal are left out."""
        return self.grep is not None or self.level != LEVELS[-1]

    def accepts(self, line: LogLine) -> bool:
        """Return True for a line to show."""
        severe = LEVELS.index(line.level) <= LEVELS.index(self.level)
        return severe and (self.grep is None or self.grep.search(line.text) is not None)


def parse_since(text: str, now: datetime) -> datetime:
    """Return a time from `30m`, `2h`, `1d`, or an ISO time, which is local without a zone. Raises InputError."""
    if found := _DURATION.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
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


def selected_units(inventory: Inventory, targets: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return the units to show by container; no units are the whole journal. Raises InputError.

    Targets are names of containers, services and units. Containers restrict the place; services and units restrict the
    content. A unit of no service needs its container.
    """
    names = [each for each in targets if each in {container.name for container in inventory.containers}]
    parts = [each for each in targets if each not in names]
    if not targets:
        return {c.name: units for c in inventory.containers if (units := _units_of(c, ()))}
    containers = select_containers(inventory, names)
    found = {each.name: _units_of(each, parts) for each in containers}
    unknown = [part for part in parts if not any(_units_of(each, [part]) for each in containers)]
    if unknown and not names:
        raise InputError(
            f"Cannot show the logs of {unknown[0]}: it is neither a container, nor a service, nor a unit of a service",
            "Services: " + ", ".join(sorted({name for each in containers for name in each.services})) + ".",
            "For another unit, name its container first: `homelab logs CONTAINER UNIT`",
        )
    return {name: [*units, *unknown] for name, units in found.items() if units or unknown or not parts}


def _units_of(container: Container, parts: Sequence[str]) -> list[str]:
    """Return the units of these services and units of a container; of all its services without parts."""
    found = []
    for name, service in container.services.items():
        for unit in service.units():
            if not parts or name in parts or unit in parts or unit.removesuffix(".service") in parts:
                found.append(unit)
    return found


def journal_command(units: Sequence[str], known: Sequence[str], chosen: LogFilter, now: datetime) -> str:
    """Return the shell text that prints a container's journal as JSON."""
    since = chosen.since or (now - _SEARCHED if chosen.searches and not chosen.follow else None)
    words = ["journalctl", "--no-pager", "--quiet", "--output=json", f"--output-fields={','.join(FIELDS)}"]
    words += [f"--since=@{since.timestamp():.0f}"] if since else [f"--lines={chosen.lines or 0}"]
    words += [f"--unit={unit}" for unit in units] + ["--follow"] * chosen.follow
    words += ["--no-tail"] * (chosen.follow and since is not None)
    unknown = [unit for unit in units if unit not in known]
    # journalctl accepts unknown units.
    require_known = f"{argv('systemctl', 'cat', '--', *unknown)} >/dev/null && " if unknown else ""
    return require_known + argv(*words)


def logs(
    session: Session, units: Mapping[str, Sequence[str]], chosen: LogFilter, now: datetime, statuses: dict[str, int]
) -> Iterator[LogLine]:
    """Yield the lines of the units by container, by time, with `follow` as they arrive. Raises HomelabError.

    At the end, `statuses` has the exit status of journalctl or OpenSSH's client by container.
    """
    commands = {}
    for name, shown in units.items():
        known = _units_of(select_containers(session.inventory, [name])[0], ())
        commands[name] = ssh_argv(session, name, [journal_command(shown, known, chosen, now)], terminal=False)
    with Journals(commands, statuses) as journals:
        lines = (line for line in journals if chosen.accepts(line))
        yield from lines if chosen.follow else sorted(_last(lines, chosen.lines))


def _last(lines: Iterator[LogLine], count: int | None) -> Iterator[LogLine]:
    """Yield the last lines of each container."""
    found: dict[str, deque[LogLine]] = {}
    for line in lines:
        found.setdefault(line.container, deque(maxlen=count)).append(line)
    for each in found.values():
        yield from each
