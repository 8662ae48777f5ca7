"""The removal of old entries of Superset's log, by a timer: each view of a chart adds entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from homelab.model import Step
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.superset_metadata import CLIENT
from homelab.steps import File, SystemdUnit

TIMER = "superset-cleanup.timer"
_RETENTION = "90 days"
_SQL = f"delete from logs where dttm < now() at time zone 'utc' - interval '{_RETENTION}'"


def cleanup(sandbox: Sandbox) -> Iterator[Step]:
    """Yield the unit and its timer."""
    own = replace(sandbox, environment=[CLIENT])
    yield File(
        "/etc/systemd/system/superset-cleanup.service",
        render("superset/superset-cleanup.service.j2", sql=_SQL, sandbox=own),
    )
    timer = File(f"/etc/systemd/system/{TIMER}", render("superset/superset-cleanup.timer.j2"))
    yield timer
    yield SystemdUnit(TIMER, triggered_by=[timer], settle=0)
