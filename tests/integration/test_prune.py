"""`homelab prune` on a real PostgreSQL 16: the data of a removed service, and of the weather, are deleted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.commands.prune import prune
from homelab.host import Result
from homelab.inventory import load
from homelab.model import DatabaseGrant, Inventory, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.layout import PLATFORM
from homelab.progress import SilentProgress
from homelab.services.postgres import contents
from homelab.services.registry import Registry
from homelab.steps.converge import converge
from homelab.steps.postgres_objects import PSQL
from tests.integration import pg
from tests.support import FixedSecretStore, LocalHost, make_session

SET_UP = """
create database project_data; create database shop_history; create role shop login; create role other login;
comment on role shop is 'homelab';
alter database shop_history owner to shop; grant connect, temporary on database project_data to shop, other;
"""
IN_PROJECT = """
create schema raw; create table raw.rows (id int); grant usage on schema raw to shop, other;
grant select on raw.rows to shop, other; create schema shop authorization shop; create table shop.sold (id int);
alter table shop.sold owner to shop; alter default privileges in schema raw grant select on tables to shop;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop(Service):
    """A service with a database, a schema in a shared one, and a folder."""

    folder: str

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own a database and a schema, and read another schema."""
        return (
            DatabaseGrant("shop_history", "shop", "own"),
            DatabaseGrant("project_data", "shop", "own", "shop"),
            DatabaseGrant("project_data", "shop", "read", "raw"),
        )

    def data_folders(self) -> Sequence[str]:
        """Return its folder, a constant of the test."""
        return (FOLDER,)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return no steps."""
        return ()


FOLDER = "/nonexistent"  # set by the test


@dataclass
class DatabaseHost(LocalHost):
    """This machine, with the server of the test in the place of the container's."""

    psql: str = ""
    root: str = ""  # replaces the folder of the platform

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        text = command.replace(PSQL, self.psql)
        return super().run(text.replace(PLATFORM, self.root) if self.root else text, stdin=stdin, timeout=timeout)

    def close(self) -> None:
        """See Connection."""


def psql(server: pg.Server) -> str:
    """Return the shell text that starts psql as the administrator."""
    words = [f"{key}={value}" for key, value in server.environment("postgres").items() if key != "PGDATABASE"]
    return shlex.join(["env", *words, server.program("psql")])


def test_data_of_a_removed_service_are_deleted_and_others_stay(
    postgres: pg.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "today").write_text("x")
    (folder / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    monkeypatch.setattr("tests.integration.test_prune.FOLDER", str(folder))
    (tmp_path / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    registry = Registry(tmp_path)
    registry.add("shop", Shop)
    host = DatabaseHost(psql=psql(postgres))
    one = "containers: {analytics-platform: null, airflow-orchestration: null}\npipelines: null\n"
    (tmp_path / "own.yaml").write_text(one)
    inventory = load([tmp_path / "inventory.yaml", tmp_path / "own.yaml"])
    session = make_session(inventory, connector=lambda *_: host)
    with postgres.connect() as connection:
        for statement in SET_UP.strip().split(";")[:-1]:
            connection.execute(statement.encode())
    try:
        with postgres.connect("project_data") as connection:
            connection.execute(IN_PROJECT.encode())
        outcome = prune(session, "shop", registry, lambda lines: True)
        assert [each.kind for each in outcome.data] == ["database", "schema", "role", "folder"]
        assert not folder.exists()
        assert (tmp_path / "precious" / "file").exists()
        with postgres.connect("project_data") as connection:
            sql = "select to_regnamespace('shop') is null, has_table_privilege('other', 'raw.rows', 'select')"
            assert connection.execute(sql.encode()).fetchall() == [(True, True)]
        assert prune(session, "shop", registry, lambda lines: False).data == []
    finally:
        with postgres.connect() as connection:
            for name in ("project_data", "shop_history"):
                connection.execute(f"drop database if exists {name} with (force)".encode())
            for name in ("shop", "other"):
                connection.execute(f"drop role if exists {name}".encode())


def with_pipelines(folder: Path, weather: object) -> Inventory:
    """Return the shipped inventory with these options of the weather, None for none, and the pipeline `prices`."""
    overlay = folder / "pipelines.yaml"
    overlay.write_text(json.dumps({"pipelines": {"weather": weather, "prices": {"path": "pipelines/prices"}}}))
    return load([bundled_path("inventory.yaml"), overlay])


@pytest.fixture
def server() -> Iterator[pg.Server]:
    """A server of its own, as the roles of the stack have fixed names."""
    if pg.archive() is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    with pg.server() as running:
        yield running


def deploy(server: pg.Server, wanted: Inventory) -> list[str]:
    """Converge the databases to an inventory; return the changes."""
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with("postgres"), secret_store=FixedSecretStore(), host_keys={}
    )
    steps = list(contents(context, psql(server)))
    return [str(change) for change in converge(LocalHost(), steps, SilentProgress())]


def test_data_of_the_weather_are_deleted_and_the_next_deploy_makes_its_tables_again(
    server: pg.Server, tmp_path: Path
) -> None:
    new_pipeline(tmp_path, "prices")
    present, absent = with_pipelines(tmp_path, {}), with_pipelines(tmp_path, None)
    deploy(server, present)
    password = FixedSecretStore().secret("postgres-analytics").reveal()
    with server.connect("project_data", "analytics", password) as ingestion:
        ingestion.execute("select upkeep.partitions()")
        row = b"""insert into raw.weather_observations (city, data) values ('x', '{"dt": 1}')"""
        ingestion.execute(row)
    with server.connect("project_data") as admin:
        admin.execute("create table prices.readings (id int); insert into prices.readings values (1)")
    assert any("logins of removed roles" in change for change in deploy(server, absent))
    folders = [tmp_path / container.name / "pipelines" / "weather" / "data" for container in present.containers]
    for folder in folders[1:2]:  # that of analytics
        (folder / "spool").mkdir(parents=True)
        (folder / "published.duckdb").write_text("rows")

    session = make_session(
        absent, connector=lambda each, *_: DatabaseHost(psql=psql(server), root=str(tmp_path / each.name))
    )
    asked = list[str]()

    def agree(lines: Sequence[str]) -> bool:
        asked.extend(lines)
        return True

    prune(session, "weather", Registry(), agree)
    assert [line.partition(",")[0] for line in asked] == [
        "postgres-data: schema project_data.raw",
        "postgres-data: schema project_data.upkeep",
        "postgres-data: role analytics",
        "postgres-data: role dbt",
        "analytics-platform: folder /opt/analytics-platform/pipelines/weather",
    ]
    assert not folders[1].exists()
    with server.connect("project_data") as admin:
        left = "select nspname::text from pg_namespace where nspname in ('raw', 'upkeep', 'prices') union all "
        left += "select rolname::text from pg_roles where shobj_description(oid, 'pg_authid') = 'homelab' order by 1"
        names = [row[0] for row in admin.execute(left.encode()).fetchall()]
        assert names == ["airflow_admin", "prices", "prices", "prices_dbt"]
        assert admin.execute("select id from prices.readings").fetchall() == [(1,)]
    assert prune(session, "weather", Registry(), agree).data == []
    assert deploy(server, absent) == []
    deploy(server, present)
    assert deploy(server, present) == []
    with server.connect("project_data") as admin:
        assert admin.execute("select count(*) from raw.weather_observations").fetchall() == [(0,)]
