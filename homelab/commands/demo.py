"""`homelab demo`: everything on this machine, from nothing to weather in the marts."""

from __future__ import annotations

import time
from pathlib import Path

from homelab.inventory import load
from homelab.lab import Lab
from homelab.lab import up as lab_up
from homelab.model.inventory import WEATHER
from homelab.progress import Progress, duration
from homelab.runtime.container_addresses import locate
from homelab.runtime.container_changes import audited_client
from homelab.runtime.convergence import converge_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.lab_report import LabReport, report_lab
from homelab.runtime.marts import Rows, query_marts
from homelab.runtime.pipeline_runs import run_pipeline, succeeded_lately, ui
from homelab.runtime.provisioning import provision
from homelab.runtime.session import Session

_ROWS = """select city, observation_date as day, observations, round(temperature_min_f, 1) as min_f,
round(temperature_mean_f, 1) as mean_f, round(temperature_max_f, 1) as max_f, round(humidity_mean_pct) as humidity_pct
from weather_daily order by day desc, city limit 6"""


def demo(inventory_path: Path, progress: Progress) -> tuple[LabReport, Rows, str]:
    """Start the lab, create and deploy its containers, and run the pipeline once; repeat nothing that is done.

    Returns the lab's state, its weather, and the address of Airflow's web UI. Raises HomelabError.
    """
    started = time.monotonic()
    session = Session.open(load([inventory_path, lab_up(Lab(), progress)]), progress)
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
    if succeeded_lately(session, WEATHER):
        progress.note("pipeline", "not run again: it succeeded within the last hour")
    else:
        progress.note("pipeline", str(run_pipeline(session, WEATHER)))
    report, rows = report_lab(session), query_marts(session, _ROWS, WEATHER)
    progress.note("demo", f"took {duration(time.monotonic() - started)} in total")
    return report, rows, ui(locate(inventory))
