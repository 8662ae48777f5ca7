"""The service ingestion: the scripts of the pipelines on a container of their own, and dbt without their secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_backfill import backfill_file
from homelab.commands.pipeline_exclude import exclusions
from homelab.commands.pipeline_new import new_pipeline
from homelab.commands.pipeline_rebuild import rebuild
from homelab.commands.pipeline_rows import row_exclusions
from homelab.commands.pipeline_status import status
from homelab.commands.query import query
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Container, Inventory, ServiceContext, Step
from homelab.model.firewall import desired_firewall
from homelab.model.stages import ANALYTICS, INGESTION
from homelab.paths import bundled_path
from homelab.runtime.backfills import BackfillOptions, backfill_api
from homelab.runtime.convergence import steps_of
from homelab.runtime.session import Session
from homelab.services.postgres import hba
from homelab.steps import File, Group, Refuse, Tree, Venv, WaitFor
from tests.scripts import IN_CONTAINER
from tests.support import FixedSecretStore, LocalHost, NoHost, make_session

BOX = "containers: {box: {vmid: 199, ip: .99, cores: 1, memory: 512, services: {ingestion: {}}}}"
ROOT = "/opt/analytics-platform/pipelines/prices"
MANIFEST = """
commands: {fetch: scripts/fetch.py, export: scripts/fetch.py --all}
environment: {API_KEY: {secret: shop}, CURRENCY: EUR}
corrections: {table: readings, key: [item], time: measured_at}
"""


def inventory(folder: Path, overlay: str = BOX, *pipelines: str) -> Inventory:
    """Return the shipped inventory with an overlay, the key of the weather, and further pipelines."""
    (folder / "key").write_text("openweather-key")
    (folder / "key").chmod(0o600)
    others = {name: {"path": f"pipelines/{name}"} for name in pipelines}
    weather = {"api_key_file": str(folder / "key")}
    (folder / "pipelines.yaml").write_text(json.dumps({"pipelines": {"weather": weather, **others}}))
    (folder / "own.yaml").write_text(overlay)
    return load([bundled_path("inventory.yaml"), folder / "pipelines.yaml", folder / "own.yaml"])


def with_prices(folder: Path, manifest: str = MANIFEST) -> Inventory:
    """Return that inventory with a pipeline that has a secret, corrections, and packages of its own."""
    root = folder / "pipelines" / "prices"
    if not root.exists():
        new_pipeline(folder, "prices")
    (root / "pipeline.yaml").write_text(manifest)
    (root / "requirements.txt").write_text("x==1 --hash=sha256:0\n")
    return inventory(folder, BOX, "prices")


def context(wanted: Inventory, name: str) -> ServiceContext:
    (container,) = (each for each in wanted.containers if each.name == name)
    keys = {each.name: f"ssh-ed25519 Key-of-{each.name}" for each in wanted.containers}
    return ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=keys)


def steps(wanted: Inventory, name: str) -> list[Step]:
    return list(steps_of(context(wanted, name)))


def files(found: Sequence[Step]) -> dict[str, str]:
    return {step.path: step.content.decode() for step in found if isinstance(step, File)}


def paths(found: Sequence[Step], kind: type[Tree | Venv]) -> set[str]:
    return {step.path for step in found if isinstance(step, kind)}


def test_without_the_service_analytics_runs_both_stages(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, "{}")
    assert {wanted.container_of(stage).name for stage in (INGESTION, ANALYTICS)} == {"analytics-platform"}
    assert [list(wanted.stages_on(each)) for each in wanted.containers] == [[], [INGESTION, ANALYTICS], []]
    orders = {each.name: each.shape.startup_order for each in wanted.containers}
    assert orders == {"postgres-data": 1, "analytics-platform": 2, "airflow-orchestration": 3}


def test_next_to_analytics_the_service_changes_nothing(tmp_path: Path) -> None:
    both = inventory(tmp_path, "containers: {analytics-platform: {services: {ingestion: {}}}}")
    alone = inventory(tmp_path, "{}")
    expected = {step.title: step.probes() for step in steps(alone, "analytics-platform")}
    found = {step.title: step.probes() for step in steps(both, "analytics-platform")}
    assert {title: probes for title, probes in found.items() if title not in expected}.keys() == {
        "ingestion is healthy"
    }
    assert {title: found[title] for title in expected} == expected


def test_secrets_and_commands_of_a_stage_are_on_its_container_only(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path)
    box, platform = steps(wanted, "box"), steps(wanted, "analytics-platform")
    texts = {"box": files(box), "analytics-platform": files(platform)}
    secrets = {name: text[f"{IN_CONTAINER}/secrets.env"] for name, text in texts.items()}
    assert "OPENWEATHER_API_KEY=openweather-key" in secrets["box"]
    assert "PGPASSWORD=secret-of-postgres-analytics\n" in secrets["box"]
    assert "postgres-dbt" not in secrets["box"]
    assert "OPENWEATHER" not in secrets["analytics-platform"]
    assert "PGPASSWORD=secret-of-postgres-dbt\n" in secrets["analytics-platform"]
    assert "postgres-analytics" not in "".join(texts["analytics-platform"].values())
    assert "API_KEY=secret-of-shop" in texts["box"][f"{ROOT}/secrets.env"]
    assert "shop" not in texts["analytics-platform"][f"{ROOT}/secrets.env"]
    for name in texts:
        assert "CURRENCY=EUR" in texts[name][f"{ROOT}/pipeline.env"]
        assert "OPENWEATHER_UNITS=imperial" in texts[name][f"{IN_CONTAINER}/pipeline.env"]
    assert "PGUSER=prices\n" in texts["box"][f"{ROOT}/pipeline.env"]
    assert "PGUSER=prices_dbt\n" in texts["analytics-platform"][f"{ROOT}/pipeline.env"]
    assert "WEATHER_CITIES" not in texts["analytics-platform"][f"{IN_CONTAINER}/pipeline.env"]

    programs = {
        name: {path.removeprefix(f"{ROOT}/bin/") for path in text if ROOT + "/bin" in path}
        for name, text in texts.items()
    }
    assert programs == {"box": {"fetch", "export"}, "analytics-platform": {"build"}}
    assert "weather.fetch|weather.check|prices.fetch|prices.export)" in texts["box"]["/opt/analytics-platform/bin/gate"]
    assert "weather.build|prices.build)" in texts["analytics-platform"]["/opt/analytics-platform/bin/gate"]
    assert paths(platform, Tree) & {f"{ROOT}/scripts", f"{ROOT}/dbt"} == {f"{ROOT}/dbt"}
    assert paths(box, Tree) & {f"{ROOT}/scripts", f"{ROOT}/dbt"} == {f"{ROOT}/scripts"}
    assert f"{ROOT}/venv" in paths(box, Venv) - paths(platform, Venv)
    for text in texts.values():
        line = text["/home/analytics/.ssh/authorized_keys"]
        assert line.startswith('restrict,from="192.168.2.69",command="/opt/analytics-platform/bin/gate" ')


def test_build_that_is_a_script_has_its_secrets_and_packages(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path, MANIFEST.replace("export:", "build:"))
    platform = steps(wanted, "analytics-platform")
    assert "API_KEY=secret-of-shop" in files(platform)[f"{ROOT}/secrets.env"]
    assert f"{ROOT}/venv" in paths(platform, Venv)
    assert f"{ROOT}/scripts" in paths(platform, Tree)


def test_tables_are_made_by_the_ingestion_and_awaited_by_the_builds(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path)
    made = {"tables of prices", "view prices.readings_included"}
    assert made <= {step.title for step in steps(wanted, "box")}
    platform = steps(wanted, "analytics-platform")
    assert not made & {step.title for step in platform}
    (wait,) = (step for step in platform if step.title == "box has made the tables of prices")
    assert isinstance(wait, WaitFor)
    assert (wait.container, wait.part) == ("box", "the pipeline prices")
    (project,) = (step for step in platform if isinstance(step, Tree) and step.path == f"{ROOT}/dbt")
    assert platform.index(wait) < platform.index(project)
    # A version of schema.sql changes this file, so the models are checked again.
    (query_file,) = (step for step in platform if isinstance(step, File) and step.path == f"{ROOT}/tables.sql")
    assert query_file in project.triggered_by
    assert wait not in project.triggered_by  # it would trigger each deploy
    before = query_file.content
    with (tmp_path / "pipelines" / "prices" / "schema.sql").open("a") as schema:
        schema.write("\n-- version 2\nalter table readings add currency text;\n")
    after = files(steps(with_prices(tmp_path), "analytics-platform"))[f"{ROOT}/tables.sql"]
    assert after != before.decode()


def test_database_roles_are_admitted_from_the_container_of_their_stage(tmp_path: Path) -> None:
    lines = hba(context(with_prices(tmp_path), "postgres-data")).decode().splitlines()
    rows = [line.split()[1:4] for line in lines if line.startswith("hostssl project_data")]
    assert {role: address for _, role, address in rows if role != "airflow_admin"} == {
        "analytics": "192.168.2.99/32",
        "prices": "192.168.2.99/32",
        "dbt": "192.168.2.68/32",
        "prices_dbt": "192.168.2.68/32",
    }
    assert len(rows) == 5


def test_airflow_knows_and_awaits_both_containers(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    found = steps(wanted, "airflow-orchestration")
    text = files(found)
    assert text["/etc/airflow/known_hosts"].splitlines() == [
        "192.168.2.99 ssh-ed25519 Key-of-box",
        "192.168.2.68 ssh-ed25519 Key-of-analytics-platform",
    ]
    connections = {
        line.partition("=")[0]: json.loads(line.partition("=")[2].strip("'"))
        for line in text["/etc/homelab/airflow.env"].splitlines()
        if line.startswith("AIRFLOW_CONN_")
    }
    assert {name: (each["host"], each["extra"]["host_key"]) for name, each in connections.items()} == {
        "AIRFLOW_CONN_INGESTION": ("192.168.2.99", "ssh-ed25519 Key-of-box"),
        "AIRFLOW_CONN_ANALYTICS": ("192.168.2.68", "ssh-ed25519 Key-of-analytics-platform"),
    }
    titles = [step.title for step in found]
    for name in ("box", "analytics-platform"):
        assert titles.index(f"{name} accepts Airflow's key") < titles.index("unit airflow-scheduler.service")
    orders = {each.name: each.shape.startup_order for each in wanted.containers}
    assert orders == {"postgres-data": 1, "analytics-platform": 2, "box": 3, "airflow-orchestration": 4}


def test_firewall_admits_airflow_to_the_ingestion_and_the_ingestion_to_postgresql(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, "defaults: {firewall: true}\n" + BOX)
    rules = {each.name: set(map(str, desired_firewall(wanted, each).rules)) for each in wanted.containers}
    assert "in ACCEPT tcp 22 from 192.168.2.69 (homelab: SSH for airflow-orchestration)" in rules["box"]
    assert "in ACCEPT tcp 5432 from 192.168.2.99 (homelab: PostgreSQL for box)" in rules["postgres-data"]


def test_user_and_group_of_readers_exist_where_they_are_needed(tmp_path: Path) -> None:
    wanted = with_prices(tmp_path, MANIFEST + "reads: [weather]\n")
    assert [step.title for step in steps(wanted, "box") if isinstance(step, Group)] == []
    platform = steps(wanted, "analytics-platform")
    assert [step.title for step in platform if isinstance(step, Group)] == ["group readers-weather"]
    assert "READS_weather" in files(platform)[f"{ROOT}/pipeline.env"]
    assert "READS_weather" not in files(steps(wanted, "box"))[f"{ROOT}/pipeline.env"]


@pytest.mark.parametrize(
    ("overlay", "error"),
    [
        (
            "containers: {analytics-platform: {services: {analytics: null}}, "
            "airflow-orchestration: {services: {airflow: null, ingestion: {}}}}",
            "airflow-orchestration.services.ingestion: needs the service `analytics`, which no container has",
        ),
        (
            "containers: {analytics-platform: {services: {ingestion: {}}}, postgres-data: {services: {ingestion: {}}}}",
            "services.ingestion: is on postgres-data already, and there can be only one",
        ),
        (
            "containers: {analytics-platform: {services: {ingestion: {to: broker}}}}",
            "services.ingestion.to: unknown key",
        ),
    ],
)
def test_bad_placement_is_one_clear_error(tmp_path: Path, overlay: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, overlay)
    assert error in caught.value.details


def spooled_rows(wanted: Inventory, name: str) -> Refuse | None:
    found = [step for step in steps(wanted, name) if isinstance(step, Refuse) and "spool" in step.title]
    return found[0] if found else None


def test_rows_in_a_spool_that_is_left_behind_are_refused_by_name(tmp_path: Path) -> None:
    apart, together = inventory(tmp_path), inventory(tmp_path, "{}")
    assert spooled_rows(apart, "box") is None
    assert spooled_rows(together, "analytics-platform") is None
    for wanted, name in ((apart, "analytics-platform"), (apart, "postgres-data"), (together, "airflow-orchestration")):
        refusal = spooled_rows(wanted, name)
        assert refusal
        spool = tmp_path / name / "pipelines" / "weather" / "data" / "spool"
        probe = refusal.probe.replace("/opt/analytics-platform", str(tmp_path / name))
        assert refusal.check([LocalHost().run(probe)]) is None
        spool.mkdir(parents=True)
        (spool / "1.rows").touch()
        assert refusal.check([LocalHost().run(probe)]) is None, "a file without rows may be left"
        (spool / "1.rows").write_text("1\tNewark\n")
        pending = refusal.check([LocalHost().run(probe)])
        assert pending
        assert pending.effect == "refused"
        assert pending.reason == f"Cannot move the ingestion away from {name}: rows wait in its spool"


@pytest.mark.parametrize(
    ("command", "container"),
    [
        (lambda session, _: exclusions(session), "box"),
        (lambda session, _: row_exclusions(session, "prices"), "box"),
        (lambda session, folder: backfill_file(session, folder / "key", BackfillOptions()), "box"),
        (lambda session, _: backfill_api(session, date(2026, 1, 1), None, BackfillOptions()), "box"),
        (lambda session, _: rebuild(session, "prices"), "analytics-platform"),
        (lambda session, _: query(session, "select 1", "weather"), "analytics-platform"),
    ],
)
def test_each_command_asks_the_container_of_its_stage(
    tmp_path: Path, command: Callable[[Session, Path], object], container: str
) -> None:
    asked: list[str] = []

    def connect(each: Container, *_: object) -> NoHost:
        asked.append(each.name)
        return NoHost()

    session = make_session(with_prices(tmp_path), connector=connect)
    with pytest.raises(HomelabError):
        command(session, tmp_path)  # no container answers with a document
    assert asked == [container]


STATUS: dict[str, Any] = {"last_build": None, "published": None, "runs": [], "missing": []}


def test_status_has_the_fetch_and_the_spool_of_the_ingestion(tmp_path: Path) -> None:
    fetch = {"finished": "now", "stored": 1, "unchanged": 0, "failed": 0, "asked": 1}
    answers = {
        "box": {**STATUS, "last_ingest": fetch, "spooled_bytes": 7, "runs": [{"of": "no build"}]},
        "analytics-platform": {**STATUS, "last_ingest": {**fetch, "finished": "long ago"}, "spooled_bytes": 0},
    }

    class Answering(NoHost):
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
            """See Host.run."""
            return Result(command, 0, json.dumps(answers[self.name]).encode())

    found = status(make_session(inventory(tmp_path), connector=lambda each, *_: Answering(each.name)))
    assert (found.last_ingest, found.spooled_bytes, found.runs) == (fetch, 7, [])


def test_services_of_a_container_come_after_those_that_they_need(tmp_path: Path) -> None:
    reverse = "{airflow: {}, ingestion: {}, analytics: {}, postgres: {}}"
    others = "postgres-data: null, analytics-platform: null"
    overlay = f"containers: {{{others}, airflow-orchestration: {{services: {reverse}}}}}"
    wanted = inventory(tmp_path, overlay)
    (container,) = wanted.containers
    titles = [step.title for step in steps(wanted, container.name)]
    order = ["unit postgresql@16-main.service", f"{container.name} accepts analytics"]
    order += ["file /home/analytics/.ssh/authorized_keys", f"{container.name} accepts Airflow's key"]
    positions = [titles.index(title) for title in order]
    assert positions == sorted(positions)
