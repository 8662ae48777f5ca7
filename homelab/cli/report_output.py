"""Text output of reports: status, deploy, prerequisites, lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from homelab.cli.output import console, health_line
from homelab.cli.plan_output import show_diff
from homelab.cli.sparkline import sparkline
from homelab.progress import duration
from homelab.runtime.full_disks import describe
from homelab.terminal import printable

if TYPE_CHECKING:
    from homelab.commands.doctor import Diagnosis
    from homelab.lab import LabStatus
    from homelab.model import Health
    from homelab.runtime.convergence import HostReport
    from homelab.runtime.lab_report import ContainerReport, LabReport
    from homelab.runtime.marts import Rows

_SLOW, _SLOWEST = 1.0, 5  # seconds from which a step is listed in the summary, and the length of that list


def show_checks(diagnosis: Diagnosis) -> None:
    """Print each check, and the remedies of failed ones."""
    target = console()
    for check in diagnosis.checks:
        mark = Text("✓ ", "green") if check.ok else Text("✗ ", "red")
        target.print(Text.assemble(mark, (f"{check.name}: ", "bold"), check.said), soft_wrap=True)
        for line in check.todo:
            target.print(Text(f"    {line}"), soft_wrap=True)
    target.print(health_line(diagnosis.healthy))


def show_temperatures(rows: Rows) -> None:
    """Print a picture of the mean temperature of each day, one line for each city."""
    if not rows:
        return
    target, names = console(), [printable(row["city"]) for row in rows]
    widest, days = max(map(len, names)), max(len(row["means_f"]) for row in rows)
    lowest, highest = min(min(row["means_f"]) for row in rows), max(max(row["means_f"]) for row in rows)
    first, last = min(row["first"] for row in rows), max(row["last"] for row in rows)
    target.print(Text(f"\nMean temperature of each day, {first} to {last}", "bold"))
    for name, row in zip(names, rows, strict=True):
        bars = sparkline([value - lowest for value in row["means_f"]], days, highest - lowest)
        extremes = f"  {row['min_f']:.0f} to {row['max_f']:.0f} °F"
        target.print(Text.assemble(f"{name:<{widest}}  ", (bars, "cyan"), extremes))


def show_deploy(reports: Sequence[HostReport], dry_run: bool) -> None:
    """Print the changes in each container, with diffs for a dry run, and the slowest steps."""
    target = console()
    for report in reports:
        if report.failure:
            rolled_back = ", rolled back" if report.rolled_back else ""
            outcome = (f"failed after {len(report.changes)} changes{rolled_back}", "red")
        elif not report.changes:
            outcome = ("nothing to change", "green")
        else:
            verb = "to change" if dry_run else "changed"
            outcome = (f"{len(report.changes)} {verb}, {report.unchanged} unchanged", "yellow")
        target.print(Text.assemble((f"{report.container:<24}", "bold"), outcome, f"  [{duration(report.seconds)}]"))
        for change in report.changes if dry_run else ():
            style = "dim" if change.pending.effect == "live" else "yellow"
            target.print(Text.assemble(f"  {change}  ", (f"[{change.pending.effect}]", style)), soft_wrap=True)
            show_diff(target, change.pending.diff)
        for change in report.changes:
            if change.pending.kept:
                target.print(Text(f"  ! changed by hand: {change.pending.kept}", "yellow"), soft_wrap=True)
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
        target.print(Text(f"{duration(seconds):>10}  {name}: {change.step.title}", "dim"), soft_wrap=True)


def show_status(report: LabReport, target: Console | None = None) -> None:
    """Print the whole lab on one screen."""
    target = target or console()
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
        table.add_row(*_container_row(container))
    target.print(table)
    for container in report.containers:
        _show_services(target, container)
    for pipeline in report.pipelines:
        target.print(_health_of("pipeline " + pipeline.name, pipeline.health, pipeline.health.healthy), soft_wrap=True)
    for note in report.notes:
        target.print(Text(f"! {note}", "yellow"), soft_wrap=True)
    target.print(health_line(report.healthy))


def show_lab(report: LabStatus) -> None:
    """Print the lab's parts."""
    target = console()
    state = ("running", "green") if report.running else ("not running", "red")
    target.print(Text.assemble((f"lab {report.name} is ", "bold"), state))
    for name, value in (
        ("node", report.api_url),
        ("weather", report.replay_url),
        ("bridge", report.bridge),
        ("subnet", report.subnet),
        ("template", report.template),
        ("overlay", report.overlay),
    ):
        target.print(Text(f"  {name:<10}{value or 'none'}"), soft_wrap=True)
    for container in report.containers:
        style = "green" if container.state in ("running", "golden") else "red"
        target.print(
            Text.assemble(
                f"  {container.vmid:<10}{container.name:<24}{container.ip or '':<16}", (container.state, style)
            )
        )


def _container_row(container: ContainerReport) -> list[Text | str]:
    found = container.proxmox
    if not found.exists:
        return [container.name, Text("does not exist", "red"), "", "", "", ""]
    if found.foreign:
        return [container.name, Text(f"vmid {found.vmid} is not this lab's", "red"), "", "", "", ""]
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


def _health_of(name: str, health: Health, healthy: bool) -> Text:
    mark = Text("✓ ", "green") if healthy else Text("✗ ", "red")
    return Text.assemble(mark, (f"{name:<10} ", "bold"), health.summary)


def _show_services(target: Console, container: ContainerReport) -> None:
    for difference in container.proxmox.drift:
        text = f"! {container.name}: differs from the inventory: {difference}"
        target.print(Text(text, "yellow"), soft_wrap=True)
    if container.unreachable:
        target.print(Text(f"✗ {container.unreachable}", "red"), soft_wrap=True)
    if container.full_disks:
        target.print(Text(f"✗ {describe(container.name, container.full_disks)}", "red"), soft_wrap=True)
    for service in container.services:
        target.print(_health_of(service.name, service.health, service.healthy), soft_wrap=True)
        for unit, state in service.units.items():
            style = "dim" if state == "active" else "red"
            target.print(Text(f"    {unit.removesuffix('.service')}: {state}", style))
        for title, url in service.web_uis.items():
            target.print(Text(f"    {title}: {url}", "dim"), soft_wrap=True)
