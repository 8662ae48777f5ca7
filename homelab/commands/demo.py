"""`homelab demo`: everything on this machine, from nothing to weather in the marts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from homelab.inventory import load
from homelab.lab import Lab, check_groups, skip_weather, write_groups
from homelab.lab import up as lab_up
from homelab.model.inventory import WEATHER
from homelab.model.web_uis import start_page_url
from homelab.progress import Progress, duration
from homelab.runtime.backfills import BackfillOptions, backfill_api
from homelab.runtime.container_addresses import locate
from homelab.runtime.container_changes import audited_client
from homelab.runtime.convergence import converge_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.lab_report import LabReport, report_lab
from homelab.runtime.marts import Rows, query_marts
from homelab.runtime.pipeline_runs import run_pipeline, succeeded_lately, ui
from homelab.runtime.provisioning import provision
from homelab.runtime.session import Session

_MONTH = date(2013, 1, 1), date(2013, 2, 1)  # the first of the replayed data set
_PICTURE = """select city, min(observation_date) as first, max(observation_date) as last,
    list(temperature_mean_f order by observation_date) as means_f,
    min(temperature_min_f) as min_f, max(temperature_max_f) as max_f
from weather_daily
where observation_date > (select max(observation_date) - 31 from weather_daily) and temperature_mean_f is not null
group by city order by city limit 6"""
_ROWS = """select city, observation_date as day, observations, round(temperature_min_f, 1) as min_f,
round(temperature_mean_f, 1) as mean_f, round(temperature_max_f, 1) as max_f, round(humidity_mean_pct) as humidity_pct
from weather_daily order by day desc, city limit 6"""


@dataclass(frozen=True, slots=True)
class Demo:
    """The lab's state, the temperatures of a month by city, the last days, and the addresses of Airflow's web UI.

    `start_page` is empty without a gateway. `messages` is the file with the messages about
    incidents; None without alerts.
    """

    report: LabReport
    temperatures: Rows
    days: Rows
    ui: str
    start_page: str
    messages: Path | None


def demo(inventory_path: Path, progress: Progress, groups: Sequence[str] = ()) -> Demo:
    """Start the lab, create and deploy its containers, load a month of weather, and run the pipeline once.

    Without `groups`, the groups of the last run stay. Repeats no completed part. Raises HomelabError, and InputError
    for an unknown group.
    """
    check_groups(groups)
    started = time.monotonic()
    lab = Lab()
    overlay = lab_up(lab, progress)
    if groups:
        write_groups(lab, load([inventory_path, overlay]), groups)
    session = Session.open(load([inventory_path, *lab.overlays]), progress)
    inventory = session.inventory
    with lab_lock(inventory.state_dir, "demo"):
        with progress.step("homelab up", "total"):
            outcome = provision(session, audited_client(inventory), lambda plan: True)
        progress.note("homelab up", str(outcome))
        with progress.step("homelab deploy", "total"):
            reports = converge_containers(session, inventory.containers)
    for deployed in reports:
        if deployed.failure:
            raise deployed.failure
        progress.note(deployed.container, f"{len(deployed.changes) or 'nothing'} changed")
    loaded = backfill_api(session, *_MONTH, BackfillOptions())
    skip_weather(lab, (_MONTH[1] - _MONTH[0]).days * 24)
    if not loaded.stored and succeeded_lately(session, WEATHER):
        progress.note("pipeline", "not run again: it succeeded within the last hour")
    else:
        progress.note("pipeline", str(run_pipeline(session, WEATHER)))
    temperatures, days = (query_marts(session, sql, WEATHER) for sql in (_PICTURE, _ROWS))
    report, located = report_lab(session), locate(inventory)
    progress.note("demo", f"took {duration(time.monotonic() - started)} in total")
    messages = lab.messages_file if inventory.alerts else None
    return Demo(report, temperatures, days, ui(located), start_page_url(located.containers), messages)
