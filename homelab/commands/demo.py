"""`homelab demo`: the whole way on this machine, from nothing to weather in the marts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homelab.commands.deploy import deploy
from homelab.commands.pipeline import run, succeeded_lately, ui
from homelab.commands.query import query
from homelab.commands.status import Report, status
from homelab.commands.up import up
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.lab import Lab
from homelab.lab import up as lab_up
from homelab.progress import Progress, duration
from homelab.secrets import FileSecretStore

_WEATHER = """select city, observation_date as day, observations, round(temperature_min_f, 1) as min_f,
round(temperature_mean_f, 1) as mean_f, round(temperature_max_f, 1) as max_f, round(humidity_mean_pct) as humidity_pct
from weather_daily order by day desc, city limit 6"""


def demo(inventory_path: Path, progress: Progress) -> tuple[Report, Sequence[dict[str, Any]], str]:
    """Bring up the lab and all that is in it, and have the pipeline run once.

    Returns how it is, its weather, and the address of Airflow's UI.
    What is there already is left as it is. Raises HomelabError, and the failed deploy's own error.
    """
    started = time.monotonic()
    overlay = lab_up(Lab(), progress)
    inventory = load([inventory_path, overlay])
    secret_store, known_hosts = FileSecretStore(inventory.state_dir), KnownHosts.of(inventory.state_dir)
    with progress.step("homelab up", "in all"):
        outcome = up(
            inventory, secret_store=secret_store, known_hosts=known_hosts, progress=progress, confirm=lambda plan: True
        )
    progress.note("homelab up", str(outcome))
    with progress.step("homelab deploy", "in all"):
        reports = deploy(inventory, secret_store=secret_store, known_hosts=known_hosts, progress=progress)
    for deployed in reports:
        if deployed.failure:
            raise deployed.failure
        progress.note(deployed.container, f"{len(deployed.changes) or 'nothing'} changed")
    if succeeded_lately(inventory, secret_store=secret_store, known_hosts=known_hosts):
        progress.note("pipeline", "it ran within the last hour: not run again")
    else:
        progress.note(
            "pipeline", str(run(inventory, secret_store=secret_store, known_hosts=known_hosts, progress=progress))
        )
    report = status(inventory, secret_store=secret_store, known_hosts=known_hosts)
    rows = query(inventory, _WEATHER, secret_store=secret_store, known_hosts=known_hosts)
    progress.note("demo", f"took {duration(time.monotonic() - started)} in all")
    return report, rows, ui(inventory.container_with("airflow"))
