"""A plan as lines for people: each change and when it takes effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from homelab.plan import Action, Destroy, Plan, Start, Stop, Update, UpdateFirewall


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One change and its effect; `diff` is a unified diff if a file differs.

    The effect is `live`, `pending until restart`, `restarts UNIT`, `stops UNIT`, `not checked`, `refused`,
    `restarts the container`, or `data is lost`.
    """

    container: str
    change: str
    effect: str
    diff: str = ""
    kept: str = ""  # files of a user that are replaced or removed, and the folder of their copies


def plan_lines(plan: Plan) -> Iterator[PlanLine]:
    """Yield a plan's lines: one for each action, one for each field of an update."""
    for name, actions in plan.by_container().items():
        restarts = any(isinstance(action, Stop) for action in actions)
        for action in actions:
            for change, effect in _effects(action, restarts):
                yield PlanLine(name, change, effect)


def _effects(action: Action, restarts: bool) -> Iterator[tuple[str, str]]:
    match action:
        case Update(container, _, changes):
            for change in changes:
                waits = change.field in action.after_restart
                yield f"update {container.name}: {change}", "pending until restart" if waits else "live"
        case UpdateFirewall(container):
            for each in action.changes:
                yield f"firewall of {container.name}: {each}", "live"
        case Destroy():
            yield str(action), "data is lost"
        case Stop() | Start() if restarts:
            yield str(action), "restarts the container"
        case _:
            yield str(action), "live"
