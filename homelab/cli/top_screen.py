"""The picture of `homelab top`: a sample of the lab as lines that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from homelab.cli.log_output import LEVEL_STYLES
from homelab.cli.sparkline import sparkline
from homelab.errors import HomelabError
from homelab.progress import duration
from homelab.runtime.lab_sample import ContainerSample, LabSample, PipelineSample
from homelab.terminal import printable

_NAME, _MEMORY = 21, 12  # columns
_FIXED = 61  # columns of a container's row without its two sparklines
_LEAST_LOGS = 4  # lines, with their title
_SESSIONS = 5  # statements, if the terminal is high enough


def draw(sample: LabSample, width: int, height: int, footer: str = "") -> Text:
    """Return the picture of a sample: at most `height` lines of at most `width` columns.

    The log lines get the rows that the other parts leave.
    """
    title = Text.assemble((f"lab {sample.lab}", "bold"), f"  {sample.time.astimezone():%H:%M:%S}  ", (footer, "dim"))
    parts = [_containers(sample, width), _pipelines(sample), _database(sample, width)]
    if sample.problem:
        title = Text.assemble(title, "\n", (f"✗ {_line(sample.problem)}", "red"))
    lines = list(title.split("\n"))
    rest = height - len(lines) - _LEAST_LOGS
    for part in parts:
        shown = _cut(part, rest)
        lines += shown
        rest -= len(shown)
    logs = [Text(""), _title("last log lines"), *_log_lines(sample)]
    room = max(height - len(lines), 0)
    if len(logs) > room:
        logs = [*logs[:2], *logs[len(logs) - room + 2 :]] if room > 2 else []
    lines += logs
    for line in lines[:height]:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines[:height])


def draw_error(error: HomelabError) -> Text:
    """Return the picture of an error."""
    return Text.assemble((error.brief, "red"), "\n", error.details, "\n", error.resolution)


def _line(text: str) -> str:
    """Return a text as one line without tabs, whose width is known before it is printed."""
    return " ".join(printable(text).split())


def _title(text: str) -> Text:
    return Text(text, "bold")


def _cut(lines: list[Text], room: int) -> list[Text]:
    """Return the lines that fit, and a line with the number of the others."""
    if len(lines) <= room:
        return lines
    if room < 2:
        return []
    return [*lines[: room - 1], Text(f"  … {len(lines) - room + 1} more lines: use a higher terminal", "dim")]


def _containers(sample: LabSample, width: int) -> list[Text]:
    bars = max((width - _FIXED) // 2, 0)
    columns = f"{'cpu':>5} {'':{bars}} {'memory':>{_MEMORY}} {'':{bars}} {'disk':>5}  units"
    lines = [_title(f"{'container':<{_NAME}} {columns}")]
    for each in sample.containers:
        lines.append(_container(sample, each, bars))
        lines += [Text(f"  ✗ {unit}: {_line(state)}", "red") for unit, state in each.units.items() if state != "active"]
        if each.problem:
            lines.append(Text(f"  ✗ {_line(each.problem)}", "red"))
    lines.append(Text(f"sparklines: {sample.history.source}", "dim"))
    return lines


def _container(sample: LabSample, each: ContainerSample, bars: int) -> Text:
    name = f"{printable(each.name)[:_NAME]:<{_NAME}} "
    if each.status != "running":
        return Text.assemble(name, (each.status, "red"))
    cpu = f"{each.cpu:.0%}" if each.cpu is not None else "?"
    active = sum(state == "active" for state in each.units.values())
    units = (f"{active}/{len(each.units)}", "" if active == len(each.units) else "red")
    return Text.assemble(
        name,
        f"{cpu:>5} ",
        (sparkline(sample.history.cpu.get(each.name, ()), bars, 1.0), "cyan"),
        f" {_amount(each.memory, each.memory_total):>{_MEMORY}} ",
        (sparkline(sample.history.memory.get(each.name, ()), bars, 1.0), "magenta"),
        f" {_share(each.disk, each.disk_total):>5}  ",
        units if each.units else "",
    )


def _amount(used: int | None, total: int) -> str:
    return "?" if used is None else f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB"


def _share(used: int | None, total: int) -> str:
    return f"{used / total:.0%}" if used is not None and total else "?"


def _pipelines(sample: LabSample) -> list[Text]:
    return [Text(""), _title("pipelines"), *map(_pipeline, sample.pipelines)] if sample.pipelines else []


def _pipeline(each: PipelineSample) -> Text:
    mark = ("✓ ", "green") if each.healthy else ("✗ ", "red")
    age = f"built {duration(each.age)} ago; " if each.age is not None else ""
    running = f"{each.run} now; " if each.run in ("running", "queued") else ""
    return Text.assemble(mark, (f"{each.name:<{_NAME - 2}} ", "bold"), running, age, _line(each.summary))


def _database(sample: LabSample, width: int) -> list[Text]:
    found = sample.database
    if found is None:
        return []
    connections = sample.history.connections
    counts = f"{found.connections} of {found.limit} connections, {found.active} active, "
    waiting = f"{found.idle_in_transaction} idle in transaction "
    bars = sparkline(connections, max(min(width - 75, 40), 0), max(connections, default=0))
    lines = [Text(""), Text.assemble(("PostgreSQL ", "bold"), counts, waiting, (bars, "cyan"))]
    for each in found.sessions[:_SESSIONS]:
        style = "yellow" if each.state.startswith("idle in transaction") else ""
        who = f"  {_line(each.role)}@{_line(each.database)} {duration(each.seconds)}: "
        lines.append(Text.assemble(who, (_line(each.statement), style)))
    return lines


def _log_lines(sample: LabSample) -> Iterator[Text]:
    for line in sample.logs:
        text = (_line(line.text), LEVEL_STYLES.get(line.level, ""))
        yield Text.assemble((f"{line.time.astimezone():%H:%M:%S} ", "dim"), (f"{_line(line.unit)}: ", "bold"), text)
