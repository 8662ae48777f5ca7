"""How results look to a person; colours only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from homelab.errors import HomelabError
from homelab.progress import duration

if TYPE_CHECKING:
    from homelab.commands.deploy import HostReport
    from homelab.commands.doctor import Diagnosis
    from homelab.commands.import_ import Imported, Proposal
    from homelab.commands.plan import Line, Preview
    from homelab.commands.status import ContainerReport, Report
    from homelab.lab import LabStatus
    from homelab.plan import Plan


_SLOW, _SLOWEST = 1.0, 5  # seconds from which a step is named in the summary, and how many are
_PIPE = 100_000  # columns: a pipe has no width, and nothing is cut


def to_json(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses by field, errors by their parts, anything else by its text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case HomelabError():
            return {"brief": value.brief, "details": value.details, "resolution": value.resolution}
        case dict():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(item) for item in value]
    if is_dataclass(value) and not hasattr(value, "apply"):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    return str(value)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE
    return console


def show_error(error: HomelabError) -> None:
    """What happened, why, what to do: on standard error."""
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("Error: ", "bold red"), error.brief), soft_wrap=True)
    for part in (error.details, error.resolution):
        if part:
            console.print(Text(part), soft_wrap=True)


def show_lines(lines: Iterable[Line]) -> None:
    """A plan that is about to be carried out: on standard error."""
    _lines(Console(stderr=True, highlight=False), lines)


def show_preview(preview: Preview) -> None:
    """What `up` and `deploy` would do, with diffs, and what could not be looked into."""
    console = _console()
    for verb, lines in (("up", preview.up), ("deploy", preview.deploy)):
        if lines:
            console.print(Text(f"homelab {verb} would", "bold"))
            _lines(console, lines)
    for note in preview.notes:
        console.print(Text(f"· {note}", "cyan"), soft_wrap=True)
    for name, why in preview.unseen.items():
        console.print(Text(f"? {name}: not looked into: {' '.join(why.split())}", "yellow"), soft_wrap=True)
    if not preview:
        console.print(Text("Nothing to do" + (" that can be seen." if preview.unseen else "."), "green"))


def _lines(console: Console, lines: Iterable[Line]) -> None:
    for line in lines:
        style = "dim" if line.effect == "live" else "yellow"
        console.print(Text.assemble(f"  {line.what}  ", (f"[{line.effect}]", style)), soft_wrap=True)
        _show_diff(console, line.diff)


def _show_diff(console: Console, diff: str) -> None:
    for line in diff.splitlines():
        colour = {"+": "green", "-": "red"}.get(line[:1], "dim")
        console.print(Text(f"    {line}", colour), soft_wrap=True)


def show_checks(diagnosis: Diagnosis) -> None:
    """Each check, and what to do about those that are not ok."""
    console = _console()
    for check in diagnosis.checks:
        mark = Text("✓ ", "green") if check.ok else Text("✗ ", "red")
        console.print(Text.assemble(mark, (f"{check.name}: ", "bold"), check.said), soft_wrap=True)
        for line in check.todo:
            console.print(Text(f"    {line}"), soft_wrap=True)
    console.print(Text("all is well", "green") if diagnosis.healthy else Text("something is wrong", "bold red"))


def show_outcome(outcome: object) -> None:
    """What `up` or `destroy` did: the outcome's own words."""
    _console().print(Text(str(outcome)), soft_wrap=True)


def show_deploy(reports: Sequence[HostReport], dry_run: bool) -> None:
    """What a deploy did in each container, or would do, with the diffs; and where the time went."""
    console = _console()
    for report in reports:
        if report.failure:
            outcome = (
                f"failed after {len(report.changes)} changes" + (", rolled back" if report.rolled_back else ""),
                "red",
            )
        elif not report.changes:
            outcome = ("nothing to change", "green")
        else:
            outcome = (
                f"{len(report.changes)} {'to change' if dry_run else 'changed'}, {report.unchanged} unchanged",
                "yellow",
            )
        console.print(Text.assemble((f"{report.container:<24}", "bold"), outcome, f"  [{duration(report.seconds)}]"))
        for change in report.changes if dry_run else ():
            console.print(Text(f"  {change}"), soft_wrap=True)
            _show_diff(console, change.pending.diff)
    slow = sorted(
        (
            (change.seconds, report.container, change)
            for report in reports
            for change in report.changes
            if change.seconds >= _SLOW
        ),
        key=lambda each: -each[0],
    )
    for seconds, name, change in slow[:_SLOWEST]:
        console.print(Text(f"{duration(seconds):>10}  {name}: {change.step.title}", "dim"), soft_wrap=True)


def show_status(report: Report) -> None:
    """The whole lab on one screen."""
    console = _console()
    table = Table(
        "container",
        "state",
        "cores",
        "memory",
        "disk",
        "uptime",
        title=f"lab {report.lab}",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for container in report.containers:
        table.add_row(*_proxmox_row(container))
    console.print(table)
    for container in report.containers:
        _show_services(console, container)
    console.print(Text("all is well", "green") if report.healthy else Text("something is wrong", "bold red"))


def _proxmox_row(container: ContainerReport) -> list[Text | str]:
    found = container.proxmox
    if not found.exists:
        return [container.name, Text("does not exist", "red"), "", "", "", ""]
    if found.foreign:
        return [container.name, Text(f"vmid {found.vmid} is not ours", "red"), "", "", "", ""]
    state = Text("running", "green") if found.running else Text(found.status, "red")
    return [
        container.name,
        state,
        str(found.cores),
        _share(found.memory_used, found.memory_total),
        _share(found.disk_used, found.disk_total),
        _age(found.uptime) if found.running else "",
    ]


def _share(used: int, total: int) -> str:
    return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"


def _age(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _show_services(console: Console, container: ContainerReport) -> None:
    for difference in container.proxmox.drift:
        console.print(Text(f"! {container.name}: differs from the inventory: {difference}", "yellow"), soft_wrap=True)
    if container.unreachable:
        console.print(Text(f"✗ {container.unreachable}", "red"), soft_wrap=True)
    for service in container.services:
        mark = Text("✓ ", "green") if service.healthy else Text("✗ ", "red")
        console.print(Text.assemble(mark, (f"{service.name:<10}", "bold"), service.health.summary), soft_wrap=True)
        for unit, state in service.units.items():
            style = "dim" if state == "active" else "red"
            console.print(Text(f"    {unit.removesuffix('.service')}: {state}", style))


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A query's result as a table."""
    console = _console()
    if not rows:
        console.print("no rows")
        return
    # Text, as a plain string's square brackets would be read as rich's markup.
    columns = [Column(Text(name)) for name in rows[0]]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    if console.measure(table, options=console.options.update_width(_PIPE)).maximum <= console.width:
        console.print(table)
    else:
        _show_records(console, rows)


def _show_records(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Rows that are too wide for the terminal: a line for each value, rather than columns that are cut off."""
    widest = max(map(len, rows[0]))
    for number, row in enumerate(rows, start=1):
        console.print(Text(f"row {number}", "dim"))
        for name, value in row.items():
            console.print(
                Text.assemble((f"  {name:<{widest}}  ", "bold"), "" if value is None else str(value)), soft_wrap=True
            )


def show_lab(report: LabStatus) -> None:
    """What of the lab is up."""
    console = _console()
    state = ("up", "green") if report.running else ("down", "red")
    console.print(Text.assemble((f"lab {report.name} is ", "bold"), state))
    for name, value in (
        ("node", report.api_url),
        ("weather", report.replay_url),
        ("bridge", report.bridge),
        ("subnet", report.subnet),
        ("template", report.template),
        ("overlay", report.overlay),
    ):
        console.print(Text(f"  {name:<10}{value or 'none'}"), soft_wrap=True)
    for container in report.containers:
        style = "green" if container.state in ("running", "golden") else "red"
        console.print(
            Text.assemble(
                f"  {container.vmid:<10}{container.name:<24}{container.ip or '':<16}", (container.state, style)
            )
        )


def show_proposal(proposal: Proposal) -> None:
    """What an import would write and tag, and what `homelab up` would change after it: on standard error."""
    from homelab.commands.plan import lines

    console = Console(stderr=True, highlight=False)
    if proposal.entries:
        console.print(Text(f"{proposal.path.name} gets", "bold"))
        for entry in proposal.entries.values():
            console.print(Text(entry, "green"), soft_wrap=True)
    for name, tags in proposal.tagged.items():
        console.print(Text(f"{name} gets the tags {', '.join(tags)}"), soft_wrap=True)
    for remark in (*proposal.remarks, *map(str, proposal.plan.notes)):
        console.print(Text(f"! {remark}", "yellow"), soft_wrap=True)
    _show_left(console, proposal.plan, list(lines(proposal.plan)))


def show_imported(imported: Imported | None) -> None:
    """What an import did, and what is left to do."""
    from homelab.commands.plan import lines

    console = _console()
    if imported is None:
        console.print("Nothing has been changed.")
        return
    names = ", ".join(imported.names)
    console.print(
        Text(
            f"Nothing to do: {names} is in the inventory, and ours."
            if imported.nothing
            else f"{names}: in the inventory now, and ours."
        ),
        soft_wrap=True,
    )
    _show_left(console, imported.plan, list(lines(imported.plan)))
    for name, commands in {} if imported.nothing else imported.let_in.items():
        console.print(Text(f"\nhomelab cannot log in to {name} yet. On its node, as root:"), soft_wrap=True)
        for command in commands:
            console.print(Text(f"  {command}"), soft_wrap=True)
        console.print(Text(f"Then here, so that its host key is known:\n  homelab trust {name}"), soft_wrap=True)
        console.print(
            Text(
                "Keys of yours that are to stay in it belong under `ssh_keys:` in its entry before the next "
                "`homelab deploy`."
            ),
            soft_wrap=True,
        )


def _show_left(console: Console, plan: Plan, left: Sequence[Line]) -> None:
    for refusal in plan.refusals:
        for line in (f"! homelab up will refuse: {refusal.brief}", f"  {refusal.details}", f"  {refusal.resolution}"):
            console.print(Text(line, "yellow"), soft_wrap=True)
    if left:
        console.print(Text("homelab up would then", "bold"))
        _lines(console, left)
    elif not plan.refusals:
        console.print(Text("It matches: `homelab up` would change nothing."), soft_wrap=True)
