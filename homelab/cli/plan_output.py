"""Text output of plans: previews, confirmations, imports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from homelab.cli.output import console, error_console
from homelab.runtime.container_changes import UNCHANGED
from homelab.runtime.plan_lines import PlanLine, plan_lines

if TYPE_CHECKING:
    from homelab.commands.import_ import Imported, Proposal
    from homelab.commands.plan import Preview
    from homelab.plan import Plan, Refusal


def show_plan(plan: Plan) -> None:
    """Print a plan before its execution, on standard error."""
    _show_lines(error_console(), plan_lines(plan))


def show_preview(preview: Preview) -> None:
    """Print the changes of `up` and `deploy` with diffs, notes, and the containers that were not inspected."""
    target = console()
    for verb, lines in (("up", preview.up), ("deploy", preview.deploy)):
        if lines:
            target.print(Text(f"homelab {verb} would", "bold"))
            _show_lines(target, lines)
    for note in preview.notes:
        target.print(Text(f"· {note}", "cyan"), soft_wrap=True)
    for name, reason in preview.not_inspected.items():
        target.print(Text(f"? {name}: not inspected: {' '.join(reason.split())}", "yellow"), soft_wrap=True)
    for refusal in preview.refused:
        _show_refusal(target, refusal)
    if preview.refused:
        target.print(Text("homelab up changes nothing until these are resolved.", "yellow"))
    elif not preview:
        scope = " in the inspected containers." if preview.not_inspected else "."
        target.print(Text(f"Nothing to do{scope}", "green"))


def show_diff(target: Console, diff: str) -> None:
    """Print a unified diff, indented and coloured."""
    for line in diff.splitlines():
        colour = {"+": "green", "-": "red"}.get(line[:1], "dim")
        target.print(Text(f"    {line}", colour), soft_wrap=True)


def show_proposal(proposal: Proposal) -> None:
    """Print an import's entries and tags, and the changes that `homelab up` would make after it, on standard error."""
    target = error_console()
    if proposal.entries:
        target.print(Text(f"New in {proposal.path.name}:", "bold"))
        for entry in proposal.entries.values():
            target.print(Text(entry, "green"), soft_wrap=True)
    for name, tags in proposal.tagged.items():
        target.print(Text(f"{name} gets the tags {', '.join(tags)}"), soft_wrap=True)
    for remark in (*proposal.remarks, *map(str, proposal.plan.notes)):
        target.print(Text(f"! {remark}", "yellow"), soft_wrap=True)
    _show_remaining(target, proposal.plan)


def show_imported(imported: Imported | None) -> None:
    """Print the outcome of an import and the remaining steps."""
    target = console()
    if imported is None:
        target.print(UNCHANGED)
        return
    names = ", ".join(imported.names)
    done = f"Nothing to do: {names} is already imported." if imported.nothing else f"{names}: imported."
    target.print(Text(done), soft_wrap=True)
    _show_remaining(target, imported.plan)
    for name, commands in {} if imported.nothing else imported.let_in.items():
        target.print(Text(f"\nhomelab cannot log in to {name} yet. On its node, as root:"), soft_wrap=True)
        for command in commands:
            target.print(Text(f"  {command}"), soft_wrap=True)
        target.print(Text(f"Then here, to pin its host key:\n  homelab trust host {name}"), soft_wrap=True)
        target.print(
            Text(
                "`homelab deploy` removes other SSH keys of root. List keys to keep under `ssh_keys:` in the entry "
                "before it."
            ),
            soft_wrap=True,
        )


def _show_lines(target: Console, lines: Iterable[PlanLine]) -> None:
    for line in lines:
        style = "dim" if line.effect == "live" else "yellow"
        target.print(Text.assemble(f"  {line.change}  ", (f"[{line.effect}]", style)), soft_wrap=True)
        show_diff(target, line.diff)
        if line.kept:
            target.print(Text(f"  ! changed by hand: {line.kept}", "yellow"), soft_wrap=True)


def _show_refusal(target: Console, refusal: Refusal) -> None:
    target.print(Text(f"! homelab up will refuse: {refusal.brief}", "yellow"), soft_wrap=True)
    for line in (refusal.details, refusal.resolution):
        target.print(Text(f"  {line}", "yellow"), soft_wrap=True)


def _show_remaining(target: Console, plan: Plan) -> None:
    for refusal in plan.refusals:
        _show_refusal(target, refusal)
    if lines_left := list(plan_lines(plan)):
        target.print(Text("homelab up would then", "bold"))
        _show_lines(target, lines_left)
    elif not plan.refusals:
        target.print(Text("It matches the inventory: `homelab up` would change nothing."), soft_wrap=True)
