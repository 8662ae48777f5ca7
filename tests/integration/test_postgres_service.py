"""The steps of `postgres` on a real PostgreSQL 16: roles, grants, settings, and pg_hba.conf."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from homelab.errors import HomelabError
from homelab.host import Host
from homelab.inventory import load
from homelab.model import ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.services.postgres import contents, hba
from homelab.steps import PgHba, Settings, SystemdUnit
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration import pg
from tests.support import FixedSecretStore, LocalHost, owner_of_new_files

pytestmark = pytest.mark.skipif(pg.archive() is None, reason="PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")

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
    with pg.server() as running:
        yield running


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


def psql(server: pg.Server) -> str:
    words = [f"{key}={value}" for key, value in server.environment("postgres").items() if key != "PGDATABASE"]
    return shlex.join(["env", *words, server.program("psql")])


def steps(server: pg.Server, where: ServiceContext, rules: bytes | None = None) -> list[Step]:
    command, own_rule = psql(server), b"host all postgres 127.0.0.1/32 scram-sha-256\n"
    owner, group = ("nobody", "nogroup") if os.geteuid() == 0 else owner_of_new_files()
    return [
        *contents(where, command),
        PgHba(
            str(server.data / "pg_hba.conf"),
            own_rule + (hba(where) if rules is None else rules),
            owner,
            group,
            0o600,
            psql=command,
        ),
    ]


def connect(server: pg.Server, database: str, role: str) -> psycopg.Connection[tuple[object, ...]]:
    return server.connect(database, role, f"secret-of-postgres-{role}")


def test_a_second_run_changes_nothing(server: pg.Server, tmp_path: Path) -> None:
    assert len(converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())) == 10
    assert pending_changes(LocalHost(), steps(server, context(tmp_path, 1, 2))) == []


def test_analytics_may_only_append_and_read(server: pg.Server, tmp_path: Path) -> None:
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    with connect(server, "project_data", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('x', '{}')")
        assert connection.execute("select city from raw.weather_observations").fetchone() == ("x",)
        for sql in (
            "update raw.weather_observations set city = 'y'",
            "delete from raw.weather_observations",
            "truncate raw.weather_observations",
            "create table raw.t (i int)",
            "create schema s",
            "drop table raw.weather_observations",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql)
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        connect(server, "airflow_metadata", "analytics")


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


def test_a_wrong_password_is_refused(server: pg.Server, tmp_path: Path) -> None:
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
        "grants: analytics may append project_data",
    ]


def test_a_pg_hba_with_errors_is_taken_back_before_it_is_loaded(server: pg.Server, tmp_path: Path) -> None:
    wanted = context(tmp_path, 1, 2)
    converge(LocalHost(), steps(server, wanted), SilentProgress())
    before = (server.data / "pg_hba.conf").read_bytes()
    with pytest.raises(HomelabError, match=r"Cannot load pg_hba\.conf on local") as error:
        converge(LocalHost(), steps(server, wanted, b"host all all 127.0.0.1/32 nonsense\n"), SilentProgress())
    assert "nonsense" in error.value.details
    assert (server.data / "pg_hba.conf").read_bytes() == before
    assert pending_changes(LocalHost(), steps(server, wanted)) == []


def test_a_written_but_unloaded_file_is_loaded(server: pg.Server, tmp_path: Path) -> None:
    swapped = context(tmp_path, 2, 1)
    converge(LocalHost(), steps(server, context(tmp_path, 1, 2)), SilentProgress())
    final = steps(server, swapped)[-1]
    assert isinstance(final, PgHba)
    path = server.data / "pg_hba.conf"
    path.write_bytes(final.content)  # as after a run that was killed before the reload
    stat = path.stat()
    os.utime(path, (stat.st_atime + 2, stat.st_mtime + 2))
    assert [str(c) for c in pending_changes(LocalHost(), steps(server, swapped))] == [f"file {path}: is not loaded yet"]


def test_the_previous_file_is_removed_after_a_restart_loaded_the_new_one(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    previous = server.data / "pg_hba.conf.homelab-previous"
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
    file, main = server.data / "homelab.conf", server.data / "postgresql.conf"
    before = main.read_bytes()
    main.write_bytes(before + b"include_if_exists 'homelab.conf'\n")
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


def test_a_missing_reload_or_restart_of_a_killed_run_is_made(server: pg.Server, settings: Path) -> None:
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
    "drop view raw.exclusions",
    "drop function upkeep.record_settings",
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


def test_new_month_is_no_difference(server: pg.Server, tmp_path: Path) -> None:
    wanted = steps(server, context(tmp_path, 1, 2))
    converge(LocalHost(), wanted, SilentProgress())
    with server.connect("project_data") as connection:
        connection.execute(
            "create table raw.further partition of raw.weather_observations for values from ('2001-01-01') to "
            "('2001-02-01')"
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
