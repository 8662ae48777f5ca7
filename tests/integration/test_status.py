"""`status` is true: containers and services that are missing, and the queries for the state of Airflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from homelab.cli.report_output import show_status
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Container
from homelab.runtime import lab_report, pipeline_runs
from homelab.runtime.full_disks import PROBE, full_disks
from homelab.runtime.lab_report import report_lab
from homelab.services.airflow_metadata import import_errors, is_paused, last_runs
from homelab.services.raw_schema import missing_tables
from homelab.steps.queries import Query
from tests.integration import pg
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.scripts import DAG_ID
from tests.support import LocalHost, NoHost, make_session

METADATA = """
create table dag (dag_id text, is_paused bool);
create table import_error (filename text, stacktrace text);
create table dag_run (dag_id text, run_id text, state text, start_date timestamptz, end_date timestamptz);
create table task_instance (dag_id text, run_id text, task_id text, state text, try_number int);
"""


def services(site: Site) -> dict[str, tuple[bool, str]]:
    report = report_lab(make_session(site.inventory, site.known_hosts))
    assert not report.healthy
    return {each.name: (each.healthy, each.health.summary) for c in report.containers for each in c.services}


def test_services_of_a_destroyed_or_stopped_container_are_not_healthy(site: Site) -> None:
    site.up()
    site.pve.cts.remove(site.pve.ct(167))
    site.pve.ct(168).status = "stopped"
    site.pve.cts.remove(site.pve.ct(169))
    site.pve.add_vm(169, "windows", node="pve")
    assert services(site) == {
        "postgres": (False, "its container does not exist: run `homelab up`, then `homelab deploy`"),
        "analytics": (False, "its container is stopped: run `homelab up`"),
        "airflow": (False, "the guest with its vmid 169 is not this lab's"),
    }


def test_services_of_an_unreachable_container_are_not_healthy(site: Site) -> None:
    site.up()

    def connect(container: Container, *_: object) -> object:
        raise HomelabError("Cannot connect", "no answer")

    report = report_lab(make_session(site.inventory, site.known_hosts, connector=connect))
    assert [container.name for container in report.containers] == NAMES
    assert not any(service.healthy for container in report.containers for service in container.services)


@pytest.mark.parametrize("answer", ["", "active\n", "active\ninactive\n"])
def test_unit_without_an_answer_is_not_active(answer: str) -> None:
    states = lab_report._unit_states(["a.timer", "b.service"], Result("", 3, answer.encode()))
    assert list(states) == ["a.timer", "b.service"]
    assert set(states.values()) != {"active"}


def answer(server: pg.Server, database: str, query: Query) -> str:
    with server.connect(database) as connection:
        row = connection.execute(query.sql).fetchone()
    assert row
    found = row[0]
    return found if isinstance(found, str) else "" if found is None else json.dumps(found)


def test_queries_for_the_runs_and_obstacles_of_the_dag(postgres: pg.Server) -> None:
    with postgres.database("airflow_metadata") as name:
        with postgres.connect(name) as connection:
            connection.execute(METADATA)
            assert json.loads(answer(postgres, name, import_errors())) == []
            connection.execute("insert into dag values (%s, true), ('other', true)", (DAG_ID,))
            connection.execute("insert into import_error values ('/opt/x.py', 'Traceback\nSyntaxError: bad\n')")
            for run, state in (("a", "failed"), ("b", "running"), ("homelab__c", "queued")):
                connection.execute("insert into dag_run values (%s, %s, %s, now(), now())", (DAG_ID, run, state))
            for task, state in (("verify_ingestion", "failed"), ("run_dbt_transformation", "success")):
                connection.execute("insert into task_instance values (%s, 'a', %s, %s, 2)", (DAG_ID, task, state))
        assert json.loads(answer(postgres, name, import_errors())) == [
            "Airflow cannot import /opt/x.py: SyntaxError: bad"
        ]
        assert answer(postgres, name, is_paused(DAG_ID)) == "true"
        runs = {run["run_id"]: run["failed_tasks"] for run in json.loads(answer(postgres, name, last_runs(DAG_ID)))}
        assert runs == {"a": "verify_ingestion", "b": None, "homelab__c": None}
        state_of = partial(pipeline_runs._state_query, DAG_ID)
        assert json.loads(answer(postgres, name, state_of("a"))) == {
            "state": "failed",
            "tasks": {"run_dbt_transformation": ["success", 2], "verify_ingestion": ["failed", 2]},
            "ahead": "b",
        }
        assert json.loads(answer(postgres, name, state_of("b")))["ahead"] is None


def test_missing_tables_are_named(postgres: pg.Server) -> None:
    with postgres.database("project_data") as name:
        assert answer(postgres, name, missing_tables()) == "", "the weather was never deployed"
        with postgres.connect(name) as connection:
            connection.execute("create role analytics login")
        found = answer(postgres, name, missing_tables()).split(", ")
        assert {"raw.weather_observations", "raw.quarantine", "raw.exclusions", "upkeep.bounds"} <= set(found)
        with postgres.connect(name) as connection:
            connection.execute("create schema raw")
            connection.execute("create table raw.quarantine ()")
        assert "raw.quarantine" not in answer(postgres, name, missing_tables()).split(", ")
        with postgres.connect(name) as connection:
            connection.execute("alter role analytics nologin")
        assert answer(postgres, name, missing_tables()) == "", "the weather has left the inventory"
        with postgres.connect(name) as connection:
            connection.execute("drop role analytics")


def test_full_disk_is_not_healthy_and_named_with_the_way_out(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.up()

    class Full(NoHost):
        def batch(self, commands: Sequence[str]) -> list[Result]:
            return [Result(each, 0, b"/ 100%\n" if each == PROBE else b"") for each in commands]

    report = report_lab(make_session(site.inventory, site.known_hosts, connector=lambda *_: Full()))
    address = site.inventory.container_with("airflow").address
    assert [each.web_uis for each in report.containers[2].services] == [{"Airflow": f"http://{address}:8080"}]
    assert [(each.full_disks, each.healthy) for each in report.containers] == [(["/ 100%"], False)] * 3
    show_status(report)
    output = capsys.readouterr().out
    assert "✗ the disk of postgres-data is full (/ 100%): give it a larger `disk`" in output
    assert f"Airflow: http://{address}:8080" in output


def test_probe_finds_a_full_file_system(tmp_path: Path) -> None:
    (tmp_path / "df").write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "echo '/dev/loop0 100 100 0 100% /'\necho '/dev/loop1 100 97 3 97% /srv'\n"
    )
    (tmp_path / "df").chmod(0o755)
    host = LocalHost()
    assert full_disks(host.run(f"PATH={tmp_path}:$PATH; {PROBE}")) == ["/ 100%"]
