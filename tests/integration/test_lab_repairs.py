"""A whole stack in the lab that is damaged: the plan, the pipeline and the status name the damage and its repair."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import pytest

from homelab.commands.deploy import deploy
from homelab.errors import HomelabError
from homelab.lab import Lab
from homelab.progress import SilentProgress
from homelab.runtime.convergence import HostReport
from homelab.runtime.lab_report import LabReport, report_lab
from homelab.runtime.marts import query_marts
from homelab.runtime.pipeline_runs import run_pipeline
from homelab.runtime.session import Session
from homelab.services.airflow import Airflow
from tests.integration.lab_fixture import LabFixture, in_a_lab, lab_with
from tests.integration.waiting import until
from tests.scripts import IN_CONTAINER

LAB = Lab("repairs", IPv4Network("10.99.2.80/28"), "hl-reps", 18136, 8219)
DATABASE, ANALYTICS, AIRFLOW = "postgres-data", "analytics-platform", "airflow-orchestration"
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.80/28, gateway: .81, bridge: x}
containers:
  postgres-data: {vmid: 171, ip: .82, cores: 2, memory: 1024, disk: 4, services: {postgres: {version: 15}}}
  analytics-platform: {vmid: 172, ip: .83, cores: 2, memory: 2048, disk: 4, services: {analytics: {}}}
  airflow-orchestration: {vmid: 173, ip: .84, cores: 2, memory: 3072, disk: 6, services: {airflow: {}}}
pipelines: {weather: {cities: ["Newark,US", "New York,US"]}}
"""
MODEL = "/opt/analytics-platform/pipelines/weather/dbt/models/marts/cities.sql"

pytestmark = in_a_lab(900)


@dataclass
class Notes(SilentProgress):
    notes: list[str] = field(default_factory=list)

    def note(self, host: str, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("repairs"), INVENTORY) as stack:
        stack.up()
        assert not [report.failure for report in deploy(stack.session) if report.failure]
        run_pipeline(stack.session)
        yield stack


def planned(stack: LabFixture) -> dict[str, HostReport]:
    return {report.container: report for report in deploy(stack.session, dry_run=True)}


def redeploy(stack: LabFixture) -> list[str]:
    reports = deploy(stack.session)
    assert not [report.failure for report in reports if report.failure]
    return [str(change) for report in reports for change in report.changes]


def state(stack: LabFixture) -> dict[str, str]:
    """Return the summaries of the services and pipelines that are not healthy."""
    report: LabReport = report_lab(stack.session)
    found = {each.name: each for container in report.containers for each in container.services}
    assert list(found) == ["postgres", "analytics", "airflow"]
    services = {name: each.health.summary for name, each in found.items() if not each.healthy}
    return services | {each.name: each.health.summary for each in report.pipelines if not each.health.healthy}


def test_deployed_stack_is_healthy_and_has_nothing_to_change(stack: LabFixture) -> None:
    assert state(stack) == {}
    assert redeploy(stack) == []


def test_failed_model_is_shown_without_a_repetition_and_the_changed_file_is_kept(stack: LabFixture) -> None:
    stack.run(f"sed -i '$ a and nothing_like_that = 1' {MODEL}", ANALYTICS)
    (change,) = [change for change in planned(stack)[ANALYTICS].changes if change.step.title.startswith("tree")]
    assert MODEL in change.pending.kept
    assert "/var/lib/homelab/replaced/" in change.pending.kept

    progress, started = Notes(), time.monotonic()
    with pytest.raises(HomelabError, match="it ended as failed") as caught:
        run_pipeline(replace(stack.session, progress=progress))
    assert time.monotonic() - started < 280, "Airflow repeats a failed attempt after five minutes"
    assert "model cities: " in caught.value.details
    assert "nothing_like_that" in caught.value.details
    assert any("nothing_like_that" in note for note in progress.notes)
    broken = state(stack)
    assert set(broken) == {"weather"}
    assert "model cities: " in broken["weather"]
    assert "run_dbt_transformation" in broken["weather"]

    assert any(each.startswith("tree") for each in redeploy(stack))
    assert "nothing_like_that" in stack.run(
        f"cat /var/lib/homelab/replaced{MODEL.rpartition('/models')[0]}/*/models/marts/cities.sql", ANALYTICS
    )
    run_pipeline(stack.session)
    assert state(stack) == {}


def test_removed_published_file_is_named_and_the_pipeline_publishes_it_again(stack: LabFixture) -> None:
    stack.run(f"rm $(readlink -f {IN_CONTAINER}/data/published.duckdb)", ANALYTICS)
    assert "the published marts are missing" in state(stack)["weather"]
    with pytest.raises(HomelabError, match="there are none") as caught:
        query_marts(stack.session, "select 1")
    assert "`homelab pipeline run weather`" in caught.value.resolution
    run_pipeline(stack.session)
    assert state(stack) == {}


def test_dropped_table_is_named_and_made_again(stack: LabFixture) -> None:
    psql = "env --chdir=/ runuser -u postgres -- psql -d project_data"
    stack.run(f"{psql} -c 'drop table raw.quarantine cascade'", DATABASE)
    assert state(stack)["postgres"].startswith("missing: raw.quarantine")
    assert "tables of raw: missing, or not as homelab made them" in redeploy(stack)
    assert state(stack) == {}


@pytest.mark.parametrize("seconds", [0, 45])
def test_stopped_postgresql_is_one_line_of_the_plan_and_deploy_repairs_it(stack: LabFixture, seconds: float) -> None:
    """Airflow's processes end some seconds after their database; for a while, their heartbeats still look recent."""
    stack.run("systemctl stop postgresql@15-main", DATABASE)
    try:
        time.sleep(seconds)
        found = planned(stack)
        assert [str(change) for change in found[DATABASE].changes] == [
            "unit postgresql@15-main.service: is inactive",
            "PostgreSQL: not reachable: roles and databases were not checked",
        ]
        *units, last = map(str, found[AIRFLOW].changes)
        assert last == "PostgreSQL: not reachable: roles and databases were not checked"
        assert all(each.startswith("unit airflow-") for each in units), units
    finally:
        changes = redeploy(stack)
    assert changes[0] == "unit postgresql@15-main.service: is inactive"
    assert all(each.startswith("unit airflow-") for each in changes[1:]), changes
    for name, units in ((DATABASE, ["postgresql@15-main"]), (AIRFLOW, Airflow().units())):
        assert set(stack.run(f"systemctl is-active {' '.join(units)}", name).split()) == {"active"}
    assert redeploy(stack) == []
    time.sleep(10)
    assert state(stack) == {}
    assert redeploy(stack) == []


def test_changed_setting_names_the_restart_and_shows_its_diff(stack: LabFixture) -> None:
    containers = [
        replace(each, shape=replace(each.shape, memory=2048)) if each.name == DATABASE else each
        for each in stack.inventory.containers
    ]
    changed = replace(
        stack.inventory, containers=tuple(containers), weather=replace(stack.inventory.weather, schedule="@daily")
    )
    reports = {r.container: r for r in deploy(Session.open(changed, SilentProgress()), dry_run=True)}
    (settings,) = reports[DATABASE].changes
    assert settings.pending.effect == "restarts postgresql@15-main"
    assert "+shared_buffers = '512MB'" in settings.pending.diff
    environment, *units = reports[AIRFLOW].changes
    assert "+WEATHER_SCHEDULE=@daily" in environment.pending.diff
    assert "restarts airflow-scheduler" in [each.pending.effect for each in units]


@pytest.mark.parametrize("line", ["echo Welcome", "exit 3"])
def test_start_file_of_the_shell_has_no_effect(stack: LabFixture, line: str) -> None:
    stack.run("cp -p /root/.bashrc /root/.bashrc.before", DATABASE)
    try:
        stack.run(f"echo '{line}' >>/root/.bashrc", DATABASE)
        assert state(stack) == {}
        assert redeploy(stack) == []
    finally:
        stack.run("mv /root/.bashrc.before /root/.bashrc", DATABASE)


def test_service_of_a_stopped_container_is_not_healthy(stack: LabFixture) -> None:
    with stack.connect(AIRFLOW) as host:
        host.run("systemctl poweroff")
    until(lambda: "its container is stopped" in state(stack).get("airflow", ""))
