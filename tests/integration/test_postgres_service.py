"""The steps of `postgres` on a real PostgreSQL 16: roles, grants, settings, and pg_hba.conf."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from homelab.certificates import Authority, Names
from homelab.errors import HomelabError
from homelab.host import Host
from homelab.inventory import load
from homelab.model import DatabaseGrant, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.services.postgres import contents, hba
from homelab.steps import PgHba, Settings, SystemdUnit
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration import pg
from tests.integration.test_raw_tables import BEFORE, PARTITIONED
from tests.integration.waiting import until
from tests.support import FixedSecretStore, LocalHost, owner_of_new_files, with_service

pytestmark = pytest.mark.skipif(pg.archive() is None, reason="PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")

OWN_RULE = "host all postgres 127.0.0.1/32 scram-sha-256\n"
# Both containers on loopback; the client of these tests is 127.0.0.1.
OVERLAY = """
network: {{subnet: 127.0.0.0/24, gateway: .254}}
containers:
  postgres-data: {{ip: .5}}
  analytics-platform: {{ip: .{analytics}}}
  airflow-orchestration: {{ip: .{airflow}}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[pg.Server]:
    names = Names(("postgres-data",), ("127.0.0.1",))
    with pg.server() as running:
        running.enable_tls(Authority.create("home", names).issue(names))
        # As in the containers, the files of configuration are in a folder of root.
        conf(running).mkdir(mode=0o755)
        hba_file(running).write_text(OWN_RULE)
        with (running.data / "postgresql.auto.conf").open("a") as file:
            file.write(f"hba_file = '{hba_file(running)}'\n")
        PgCtlServer("server", server=running).restart(LocalHost())
        yield running


def conf(server: pg.Server) -> Path:
    return server.data.parent.parent / "conf"


def hba_file(server: pg.Server) -> Path:
    return conf(server) / "pg_hba.conf"


def context(folder: Path, analytics: int, airflow: int) -> ServiceContext:
    overlay = folder / "overlay.yaml"
    overlay.write_text(OVERLAY.format(analytics=analytics, airflow=airflow))
    inventory = load([bundled_path("inventory.yaml"), overlay])
    return ServiceContext(
        inventory=inventory,
        container=inventory.container_with("postgres"),
        secret_store=FixedSecretStore(),
        host_keys={},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Service):
    """A service with a schema of its own, and a role that reads it."""

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """See Service."""
        return (
            DatabaseGrant("project_data", "prices", "own", "prices"),
            DatabaseGrant("project_data", "prices_writer", "append", "prices"),
            DatabaseGrant("project_data", "prices_reader", "read", "prices"),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """See Service."""
        return ()


def psql(server: pg.Server) -> str:
    words = [f"{key}={value}" for key, value in server.environment("postgres").items() if key != "PGDATABASE"]
    return shlex.join(["env", *words, server.program("psql")])


def steps(server: pg.Server, where: ServiceContext, rules: bytes | None = None) -> list[Step]:
    command, owner = psql(server), owner_of_new_files()[0]
    group = "nogroup" if os.geteuid() == 0 else owner_of_new_files()[1]
    text = OWN_RULE.encode() + (hba(where) if rules is None else rules)
    return [*contents(where, command), PgHba(str(hba_file(server)), text, owner, group, 0o640, psql=command)]


def connect(server: pg.Server, database: str, role: str) -> psycopg.Connection[tuple[object, ...]]:
    return server.connect(database, role, f"secret-of-postgres-{role}")


def test_second_run_changes_nothing(server: pg.Server, tmp_path: Path) -> None:
    assert len(converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())) == 13
    assert pending_changes(LocalHost(), steps(server, context(tmp_path, 1, 2))) == []


def test_service_with_a_schema_of_its_own(server: pg.Server, tmp_path: Path) -> None:
    before, overlay = context(tmp_path, 1, 2), "containers: {analytics-platform: {services: {prices: {}}}}"
    inventory = with_service(tmp_path, "prices", Prices, overlay, tmp_path / "overlay.yaml")
    wanted = replace(before, inventory=inventory)
    converge(LocalHost(), steps(server, wanted), SilentProgress())
    assert pending_changes(LocalHost(), steps(server, wanted)) == []

    with connect(server, "project_data", "prices") as connection:
        connection.execute("create table prices.spot (hour timestamptz, price numeric)")
    with connect(server, "project_data", "prices_writer") as connection:
        connection.execute("insert into prices.spot values (now(), 1.5)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from prices.spot")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("create table prices.other (x int)")
    with connect(server, "project_data", "prices_reader") as connection:
        assert connection.execute("select price from prices.spot").fetchone() == (Decimal("1.5"),)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("insert into prices.spot values (now(), 2)")
    for role in ("dbt", "analytics"):
        with connect(server, "project_data", role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from prices.spot")
    for role in ("prices", "prices_reader", "prices_writer"):
        with connect(server, "project_data", role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from raw.weather_observations")
    assert pending_changes(LocalHost(), steps(server, wanted)) == []

    with server.connect("project_data") as connection:
        connection.execute("grant delete on prices.spot to prices_reader")
        connection.execute("alter schema prices owner to postgres")
    changed = [change.step.title for change in converge(LocalHost(), steps(server, wanted), SilentProgress())]
    assert changed == ["schema prices of project_data", "grants: prices_reader may read project_data.prices"]


def test_analytics_may_only_append_and_read(server: pg.Server, tmp_path: Path) -> None:
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('x', '{}')")
        assert connection.execute("select city from raw.weather_observations").fetchone() == ("x",)
        for sql in (
            "update raw.weather_observations set city = 'y'",
            "delete from raw.weather_observations",
            "truncate raw.weather_observations",
            "insert into raw.dropped_months (month) values ('2026-01-01')",
            "insert into raw.dropped_runs (dropped_before) values (now())",
            "create table raw.t (i int)",
            "create schema s",
            "drop table raw.weather_observations",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        connect(server, "airflow_metadata", "analytics")


def test_ingestion_that_was_taken_over_cannot_disguise_a_deletion_as_retention(
    server: pg.Server, tmp_path: Path
) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    records = "select (select array_agg(month) from raw.dropped_months), (select dropped_before from raw.dropped_runs)"
    with server.connect("project_data") as connection:
        before = connection.execute(records).fetchone()
        connection.execute("grant insert, update on raw.dropped_months, raw.dropped_runs to analytics")
    converge(LocalHost(), wanted, SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        for sql in (
            "insert into raw.dropped_months (month) values ('2001-01-01')",
            "insert into raw.dropped_months select date '2001-01-01' on conflict do nothing",
            "copy raw.dropped_months (month) from stdin",
            "update raw.dropped_runs set dropped_before = now()",
            "update upkeep.retention set months = 1",
            "update upkeep.clock set steady_since = '-infinity'",
            "delete from upkeep.clock",
            "create function upkeep.partitions(x int) returns void language sql as ''",
            "set role postgres",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
        # The function of the retention takes neither tables nor operators from its caller.
        connection.execute("create temp table dropped_months (month date); create temp table retention (months int)")
        connection.execute("insert into retention values (1)")
        connection.execute("set search_path = pg_temp, raw, upkeep")
        connection.execute("select upkeep.partitions()")
    with server.connect("project_data") as connection:
        assert connection.execute(records).fetchone() == before


def test_airflow_reads_the_data_and_owns_its_metadata(server: pg.Server, tmp_path: Path) -> None:
    converge(LocalHost(), steps(server, context(tmp_path, 2, 1)), SilentProgress())
    with connect(server, "airflow_metadata", "airflow_admin") as connection:
        connection.execute("create table if not exists t (i int)")
    with connect(server, "project_data", "airflow_admin") as connection:
        connection.execute("select count(*) from raw.weather_observations")
        for sql in (
            "insert into raw.weather_observations (city, data) values ('x', '{}')",
            "delete from raw.weather_observations",
            "create table raw.t (i int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        connect(server, "project_data", "analytics")


def test_wrong_password_is_refused(server: pg.Server, tmp_path: Path) -> None:
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        server.connect("project_data", "analytics", "guessed")


def test_changes_by_hand_are_reverted(server: pg.Server, tmp_path: Path) -> None:
    wanted = context(tmp_path, 1, 2)
    converge(LocalHost(), steps(server, wanted), SilentProgress())
    with server.connect("project_data") as connection:
        connection.execute("grant delete on raw.weather_observations to analytics")
        connection.execute("alter role airflow_admin createdb password 'other'")
        connection.execute("grant connect on database project_data to public")
    changed = converge(LocalHost(), steps(server, wanted), SilentProgress())
    assert [change.step.title for change in changed] == [
        "role airflow_admin",
        "database project_data",
        "grants: analytics may append project_data.raw",
    ]


def test_changes_of_a_role_to_itself_are_reverted(server: pg.Server, tmp_path: Path) -> None:
    wanted = context(tmp_path, 1, 2)
    converge(LocalHost(), steps(server, wanted), SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("alter role analytics set statement_timeout = 1000000")
        connection.execute("alter role analytics in database project_data set work_mem = '1MB'")
        connection.execute("alter role analytics password 'other'")
    (change,) = converge(LocalHost(), steps(server, wanted), SilentProgress())
    assert change.step.title == "role analytics"
    assert pending_changes(LocalHost(), steps(server, wanted)) == []
    with connect(server, "project_data", "analytics") as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("0",)


@pytest.mark.parametrize(
    ("database", "role"),
    [
        ("project_data", "analytics"),
        ("project_data", "dbt"),
        ("project_data", "airflow_admin"),
        ("airflow_metadata", "airflow_admin"),
    ],
)
def test_no_role_can_create_a_large_object(server: pg.Server, tmp_path: Path, database: str, role: str) -> None:
    addresses = (2, 1) if role == "airflow_admin" else (1, 2)
    converge(LocalHost(), steps(server, context(tmp_path, *addresses)), SilentProgress())
    with connect(server, database, role) as connection:
        for sql in ("lo_create(0)", "lo_creat(-1)", "lo_from_bytea(0, 'x')", "lo_put(1, 0, 'x')", "lo_open(1, 131072)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select {sql}".encode())
    with server.database("another") as other, server.connect(other) as connection:
        public = "select has_function_privilege('public', 'lo_create(oid)', 'execute')"
        assert connection.execute(public).fetchone() == (False,)


def test_one_role_cannot_take_all_connections(server: pg.Server, tmp_path: Path) -> None:
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    with ExitStack() as opened:
        for _ in range(60):
            opened.enter_context(connect(server, "project_data", "dbt"))
        with pytest.raises(psycopg.OperationalError, match='too many connections for role "dbt"'):
            connect(server, "project_data", "dbt")
        connect(server, "project_data", "analytics").close()


def test_database_is_in_utf8_in_a_cluster_of_another_encoding(server: pg.Server, tmp_path: Path) -> None:
    with server.connect() as connection:
        connection.execute("drop database if exists project_data with (force)")
        connection.execute("alter database template1 is_template false")
        connection.execute("drop database template1")
        connection.execute("create database template1 template template0 encoding 'LATIN1' locale 'C' is_template true")
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('Łódź', '{}')")
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_existing_database_of_another_encoding_is_refused(server: pg.Server, tmp_path: Path, encoding: str) -> None:
    with server.connect() as connection:
        connection.execute("drop database if exists project_data with (force)")
        sql = f"create database project_data template template0 encoding '{encoding}' locale 'C'"
        connection.execute(sql.encode())
    wanted = steps(server, context(tmp_path, 1, 2))
    try:
        with pytest.raises(HomelabError, match=f"database project_data on local: its encoding is {encoding}, not UTF8"):
            converge(LocalHost(), wanted, SilentProgress())
    finally:
        with server.connect() as connection:
            connection.execute("drop database project_data with (force)")


def test_rules_of_another_file_are_an_error(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    other = server.data / "other.conf"
    other.write_text("host all all 127.0.0.1/32 trust\n")
    restart = PgCtlServer("server", server=server)
    with server.connect() as connection:
        connection.execute(f"alter system set hba_file = '{other}'".encode())
    restart.restart(LocalHost())
    try:
        (change,) = pending_changes(LocalHost(), wanted)
        assert change.pending.reason == f"the server reads {other}"
        with pytest.raises(HomelabError, match="PostgreSQL does not use it") as error:
            converge(LocalHost(), wanted, SilentProgress())
        assert str(other) in error.value.details
    finally:
        with server.connect() as connection:
            connection.execute(f"alter system set hba_file = '{hba_file(server)}'".encode())
        restart.restart(LocalHost())


def test_pg_hba_with_errors_is_taken_back_before_it_is_loaded(server: pg.Server, tmp_path: Path) -> None:
    wanted = context(tmp_path, 1, 2)
    converge(LocalHost(), steps(server, wanted), SilentProgress())
    before = hba_file(server).read_bytes()
    with pytest.raises(HomelabError, match=r"Cannot load pg_hba\.conf on local") as error:
        converge(LocalHost(), steps(server, wanted, b"host all all 127.0.0.1/32 nonsense\n"), SilentProgress())
    assert "nonsense" in error.value.details
    assert hba_file(server).read_bytes() == before
    assert pending_changes(LocalHost(), steps(server, wanted)) == []


def test_written_but_unloaded_file_is_loaded(server: pg.Server, tmp_path: Path) -> None:
    swapped = context(tmp_path, 2, 1)
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    final = steps(server, swapped)[-1]
    assert isinstance(final, PgHba)
    path = hba_file(server)
    path.write_bytes(final.content)  # as after a run that was killed before the reload
    stat = path.stat()
    os.utime(path, (stat.st_atime + 2, stat.st_mtime + 2))
    assert [str(c) for c in pending_changes(LocalHost(), steps(server, swapped))] == [f"file {path}: is not loaded yet"]


def test_previous_file_is_removed_after_a_restart_loaded_the_new_one(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    previous = conf(server) / "pg_hba.conf.homelab-previous"
    previous.write_text("local all all trust\n")
    assert [change.step for change in converge(LocalHost(), wanted, SilentProgress())] == [wanted[-1]]
    assert not previous.exists()


@dataclass(frozen=True, eq=False)
class PgCtlServer(SystemdUnit):
    """A server that pg_ctl restarts instead of systemd."""

    server: pg.Server | None = None

    def restart(self, host: Host, before: str = "true") -> None:
        assert self.server
        self.server.run("pg_ctl", "restart", "--wait", "-D", str(self.server.data), "-l", str(self.server.data / "log"))


@pytest.fixture
def settings(server: pg.Server) -> Iterator[Path]:
    """Return a file of settings that the server reads during the test."""
    file, main = conf(server) / "homelab.conf", server.data / "postgresql.conf"
    before = main.read_bytes()
    main.write_bytes(before + f"include_if_exists '{file}'\n".encode())
    try:
        yield file
    finally:
        main.write_bytes(before)
        PgCtlServer("server", server=server).restart(LocalHost())


def settings_step(server: pg.Server, file: Path, content: bytes) -> Settings:
    return Settings(
        str(file), content, *owner_of_new_files(), server=PgCtlServer("server", server=server), psql=psql(server)
    )


def deployed(server: pg.Server, file: Path, content: bytes) -> tuple[list[str], bool]:
    """Converge; return the reasons for the changes, and True if the server was restarted."""
    wanted = settings_step(server, file, content)
    started = shown(server, "pg_postmaster_start_time()")
    changes = converge(LocalHost(), [wanted], SilentProgress())
    assert pending_changes(LocalHost(), [wanted]) == []
    return [change.pending.reason for change in changes], shown(server, "pg_postmaster_start_time()") != started


def shown(server: pg.Server, expression: str) -> str:
    with server.connect() as connection:
        found = connection.execute(f"select {expression}").fetchone()
    assert found
    return str(found[0])


def test_settings_are_loaded_and_restart_the_server_only_if_required(server: pg.Server, settings: Path) -> None:
    assert deployed(server, settings, b"work_mem = '5MB'\n") == (["does not exist"], False)
    assert shown(server, "current_setting('work_mem')") == "5MB"
    assert deployed(server, settings, b"work_mem = '5MB'\nmax_connections = 33\n") == (
        ["its content differs; max_connections: restart needed"],
        True,
    )
    assert shown(server, "current_setting('max_connections')") == "33"
    assert deployed(server, settings, b"work_mem = '6MB'\n") == (
        ["its content differs; max_connections: restart needed"],
        True,
    )
    assert shown(server, "current_setting('max_connections')") == "100"
    assert deployed(server, settings, b"work_mem = '6MB'\n") == ([], False)


def test_setting_of_alter_system_is_reset(server: pg.Server, settings: Path) -> None:
    content = b"work_mem = '5MB'\nmax_connections = 33\n"
    deployed(server, settings, content)
    with server.connect() as connection:
        connection.execute("alter system set work_mem = '9MB'")
        connection.execute("alter system set max_connections = 44")
    PgCtlServer("server", server=server).restart(LocalHost())
    reason = "overridden: max_connections by {0}, work_mem by {0}".format(server.data / "postgresql.auto.conf")
    assert deployed(server, settings, content) == ([reason], True)
    assert (shown(server, "current_setting('work_mem')"), shown(server, "current_setting('max_connections')")) == (
        "5MB",
        "33",
    )


def test_setting_of_a_later_file_is_an_error_that_names_it(server: pg.Server, settings: Path) -> None:
    deployed(server, settings, b"work_mem = '5MB'\n")
    later, main = server.data / "later.conf", server.data / "postgresql.conf"
    later.write_text("work_mem = '9MB'\n")
    main.write_bytes(main.read_bytes() + b"include_if_exists 'later.conf'\n")
    server.reload()
    wanted = settings_step(server, settings, b"work_mem = '5MB'\n")
    until(lambda: shown(server, "current_setting('work_mem')") == "9MB")
    with pytest.raises(HomelabError, match="the settings of PostgreSQL on local: they are overridden") as error:
        converge(LocalHost(), [wanted], SilentProgress())
    assert f"work_mem by {later}" in error.value.details


def test_missing_reload_or_restart_of_a_killed_run_is_made(server: pg.Server, settings: Path) -> None:
    deployed(server, settings, b"max_connections = 33\n")
    settings.write_bytes(b"max_connections = 34\n")
    stat = settings.stat()
    os.utime(settings, (stat.st_atime + 2, stat.st_mtime + 2))  # load times have a resolution of one second
    (change,) = pending_changes(LocalHost(), [settings_step(server, settings, b"max_connections = 34\n")])
    assert change.pending.reason == "is not loaded yet"
    os.utime(settings, (stat.st_atime - 2, stat.st_mtime - 2))
    server.reload()
    assert deployed(server, settings, b"max_connections = 34\n") == (["max_connections: restart needed"], True)


@pytest.mark.parametrize(
    ("content", "effect"),
    [
        (b"work_mem = '7MB'\nmax_connections = 33\n", "live"),
        (b"work_mem = '5MB'\nmax_connections = 34\n", "restarts server"),
        (b"work_mem = '5MB'\n", "restarts server"),
        (b"# a comment\nwork_mem = '5MB'  # and one more\nmax_connections = 33\n", "live"),
    ],
)
def test_plan_names_the_restart_that_a_setting_needs(
    server: pg.Server, settings: Path, content: bytes, effect: str
) -> None:
    deployed(server, settings, b"work_mem = '5MB'\nmax_connections = 33\n")
    (change,) = pending_changes(LocalHost(), [settings_step(server, settings, content)])
    assert change.pending.effect == effect
    assert "max_connections" in change.pending.diff or "work_mem" in change.pending.diff


DROPPED = [
    "drop table raw.quarantine",
    "drop table raw.weather_observations cascade",
    "drop view raw.exclusions cascade",
    "drop function upkeep.record_settings",
    "drop function upkeep.clock_is_steady",
    "drop table upkeep.clock",
    "drop index raw.weather_observations_inserted",
    "drop schema upkeep cascade",
    "drop schema raw cascade",
]


@pytest.mark.parametrize("sql", DROPPED)
def test_dropped_object_is_found_and_made_again(server: pg.Server, tmp_path: Path, sql: str) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with server.connect("project_data") as connection:
        connection.execute(sql)
    changes = pending_changes(LocalHost(), wanted)
    assert "tables of raw: missing, or not as homelab made them" in map(str, changes)
    converge(LocalHost(), wanted, SilentProgress())
    assert pending_changes(LocalHost(), wanted) == []
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('x', '{}')")
        connection.execute("select * from raw.quarantine")
        connection.execute("select upkeep.partitions(), upkeep.record_settings('@daily', '{}', '{}')")
        connection.execute("select * from raw.exclusions, raw.ingestion_ends")


CHANGED = {
    "alter table upkeep.clock drop column steady_since": "column upkeep.clock.steady_since timestamp with time zone",
    "alter table raw.quarantine drop column reason": "column raw.quarantine.reason text not null",
    "alter table raw.weather_observations drop column units cascade": "column raw.weather_observations.units text",
    "alter table raw.city_settings drop column timezone": "column raw.city_settings.timezone text",
    "alter table raw.exclusion_entries drop column reason cascade": "column raw.exclusion_entries.reason text not null",
    "alter table raw.quarantine alter column bytes type int": "column raw.quarantine.bytes bigint not null",
    "alter table raw.quarantine alter column reason drop not null": "column raw.quarantine.reason text not null",
    "alter table raw.quarantine alter column ingested_at drop default": "column raw.quarantine.ingested_at timestamp",
    "alter table raw.quarantine drop constraint quarantine_pkey": "constraint raw.quarantine.quarantine_pkey PRIMARY",
    "alter table raw.weather_observations drop constraint weather_observations_units": (
        "constraint raw.weather_observations.weather_observations_units CHECK"
    ),
}


@pytest.mark.parametrize(("sql", "named"), CHANGED.items())
def test_dropped_or_changed_column_is_refused_by_name_every_time(
    server: pg.Server, tmp_path: Path, sql: str, named: str
) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    table = sql.split()[2]
    with server.connect("project_data") as connection:
        connection.execute(sql.encode())
    for _ in range(2):
        with pytest.raises(HomelabError, match="Cannot apply `tables of raw`") as error:
            converge(LocalHost(), wanted, SilentProgress())
        assert f"changed by hand: {named}" in error.value.details
        assert "docs/how-to/backup.md" in error.value.resolution
    with server.connect("project_data") as connection:  # as the error advises
        connection.execute(f"drop table {table} cascade".encode())
    converge(LocalHost(), wanted, SilentProgress())
    assert pending_changes(LocalHost(), wanted) == []


@pytest.mark.parametrize("earlier", [BEFORE, PARTITIONED], ids=["plain", "partitioned"])
def test_tables_of_an_earlier_version_are_no_change_by_hand(server: pg.Server, tmp_path: Path, earlier: bytes) -> None:
    with server.connect() as connection:
        connection.execute("drop database if exists project_data with (force)")
        connection.execute("create database project_data template template0 encoding 'UTF8' locale 'C'")
    with server.connect("project_data") as connection:
        connection.execute(earlier)
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    assert pending_changes(LocalHost(), wanted) == []


def test_column_index_and_table_of_the_user_stay(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with server.connect("project_data") as connection:
        connection.execute("alter table raw.quarantine add column mine text")
        connection.execute("create index my_index on raw.quarantine (mine)")
        connection.execute("create table raw.mine (mine text)")
    converge(LocalHost(), wanted, SilentProgress())
    assert pending_changes(LocalHost(), wanted) == []
    with server.connect("project_data") as connection:
        connection.execute("select quarantine.mine, mine.mine from raw.quarantine, raw.mine")
        connection.execute("alter table raw.quarantine drop column mine; drop table raw.mine")


def test_new_month_is_no_difference(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with server.connect("project_data") as connection:
        connection.execute(
            "create table raw.further partition of raw.weather_observations for values from ('2201-01-01') to "
            "('2201-02-01')"
        )
    assert pending_changes(LocalHost(), wanted) == []
    with server.connect("project_data") as connection:
        connection.execute("drop table raw.further")


def test_plan_has_one_line_for_a_server_that_is_not_reachable(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    server.run("pg_ctl", "stop", "--wait", "-D", str(server.data))
    try:
        changes = pending_changes(LocalHost(), wanted)
    finally:
        server.run("pg_ctl", "start", "--wait", "-D", str(server.data), "-l", str(server.data / "log"))
    assert [str(change) for change in changes] == ["PostgreSQL: not reachable: roles and databases were not checked"]
    assert changes[0].pending.effect == "not checked"


def test_documented_restore_of_a_dump_ends_with_0(server: pg.Server, tmp_path: Path) -> None:
    page = (bundled_path("inventory.yaml").parent / "docs" / "how-to" / "backup.md").read_text()
    dump, restore = (re.search(rf'-c "({name} .*?)"', page) for name in ("pg_dump", "pg_restore"))
    assert dump
    assert restore
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('kept', '{}')")
    environment = {**os.environ, **server.environment("postgres")}
    words = [shlex.split(each[1]) for each in (dump, restore)]
    commands = [[server.program(program), *options] for program, *options in words]
    content = subprocess.run(commands[0], env=environment, capture_output=True, check=True).stdout
    with server.connect("project_data") as connection:
        connection.execute("drop table raw.weather_observations cascade")
    done = subprocess.run(commands[1], env=environment, input=content, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    converge(LocalHost(), wanted, SilentProgress())
    assert pending_changes(LocalHost(), wanted) == []
    with connect(server, "project_data", "analytics") as connection:
        assert connection.execute("select 1 from raw.weather_observations where city = 'kept'").fetchone()
