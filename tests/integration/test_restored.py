"""Restored databases: a dump in a really new cluster, and an older base backup of the same one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import pandas as pd
import pytest

from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.test_numbers import administrator, answer, as_ingestion, at, exclude, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCHEMA

pytestmark = pytest.mark.timeout(300)
HOUR = 3600
BUILT = (
    "stg_weather",
    "weather_hourly",
    "weather_daily",
    "weather_completeness",
    "observation_issues",
    "pipeline_runs",
)


def observe(stack: Stack, cities: str, first: int, hours: int = 5) -> None:
    """Insert hourly observations of cities, one transaction for each row."""
    with as_ingestion(stack) as connection:
        for city in cities:
            for hour in range(first, first + hours):
                insert(connection, city, answer(at("2026-03-10 00:00") + hour * HOUR, rain={"1h": hour % 3}))


def conninfo(server: pg.Server, database: str) -> str:
    """Return the connection of the owner."""
    return f"host={server.host} port={server.port} user=postgres password={server.password} dbname={database}"


def check_equals_a_rebuild(stack: Stack) -> None:
    """Compare the marts after increments with those after a rebuild, and the landed rows with raw."""
    increments = {name: stack.table(name) for name in BUILT}
    with administrator(stack) as connection:
        raw = connection.execute("select count(*) from raw.weather_observations").fetchone()
    assert raw
    assert stack.query("select count(*) as n from landing_weather") == [{"n": raw[0]}]
    stack.build("--full-refresh")
    for name, increment in increments.items():
        pd.testing.assert_frame_equal(stack.table(name), increment, rtol=1e-9)


@contextmanager
def new_cluster(stack: Stack) -> Iterator[Stack]:
    """Dump the database, and restore it in another cluster with the roles of a deploy."""
    with ExitStack() as exits:
        dump = stack.server.data.parent / "dump"
        stack.server.run("pg_dump", "--format=custom", f"--file={dump}", conninfo(stack.server, stack.database))
        server = exits.enter_context(pg.server())
        for role in ("analytics", "dbt"):
            exits.enter_context(server.role(role, role))
        exits.enter_context(server.database(stack.database))
        copy = pg.give_to_server(shutil.copyfile(dump, server.data.parent / "dump"))
        server.run("pg_restore", "--no-privileges", "-d", conninfo(server, stack.database), str(copy))
        with server.connect(stack.database) as connection:
            for role, privilege in (("analytics", "append"), ("dbt", "read")):
                connection.execute(raw_grants(DatabaseGrant(stack.database, role, privilege, "raw")).sql.encode())  # type: ignore[arg-type]
        yield dataclasses.replace(stack, server=server)


def test_dump_in_a_new_cluster_is_landed_again(stack: Stack) -> None:
    observe(stack, "AB", 0)
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 02:00"), main={"temp": 999}), revision=1)
        exclude(connection, "B", at("2026-03-10 03:00"), at("2026-03-10 04:00"))
    stack.build()
    with new_cluster(stack) as restored:
        observe(stack, "C", 0)
        stack.build()  # of the old cluster, with rows that the dump lacks
        report = restored.build()
        assert (report["status"], report["full_refresh"]) == ("success", True)
        assert {row["city"] for row in restored.query("from weather_daily")} == {"A", "B"}
        for turn in range(2):
            observe(restored, "AD", 5 * turn + 5)
            with as_ingestion(restored) as connection:
                exclude(connection, "A", at("2026-03-10 01:00"), at("2026-03-10 01:30") + turn)
            report = restored.build()
            assert (report["full_refresh"], report["months_landed_again"]) == (False, [])
        assert {row["city"] for row in restored.query("from weather_daily")} == {"A", "B", "D"}
        check_equals_a_rebuild(restored)


@pytest.fixture
def own_server() -> Iterator[pg.Server]:
    """A server of one test."""
    with pg.server() as running:
        yield running


@pytest.mark.parametrize("later", [0, 60], ids=["at once", "after more transactions than were lost"])
def test_older_base_backup_is_landed_again(stack: Stack, own_server: pg.Server, later: int) -> None:
    with ExitStack() as exits:
        restored = exits.enter_context(moved_to(stack, own_server))
        observe(restored, "AB", 0)
        restored.build()
        backup = own_server.data.with_name("backup")
        own_server.run("pg_basebackup", "--checkpoint=fast", "-D", str(backup), "-d", conninfo(own_server, "postgres"))
        observe(restored, "AC", 5, 10)  # lost
        restored.build()
        own_server.run("pg_ctl", "stop", "--wait", "-m", "fast", "-D", str(own_server.data))
        shutil.rmtree(own_server.data)
        backup.rename(own_server.data)
        log = str(own_server.data.parent / "log")
        own_server.run("pg_ctl", "start", "--wait", "-D", str(own_server.data), "-l", log)
        observe(restored, "D", 0, later)  # with the ids and transactions of the lost ones
        report = restored.build()
        assert report["full_refresh"] or report["months_landed_again"] == [f"{datetime.now(UTC):%Y-%m}"]
        assert {row["city"] for row in restored.query("from weather_daily")} == {"A", "B", *("D" * bool(later))}
        observe(restored, "B", 5)
        assert restored.build()["full_refresh"] is False
        check_equals_a_rebuild(restored)


@contextmanager
def moved_to(stack: Stack, server: pg.Server) -> Iterator[Stack]:
    """Create the database of a deploy on another server."""
    with ExitStack() as exits:
        for role in ("analytics", "dbt"):
            exits.enter_context(server.role(role, role))
        exits.enter_context(server.database(stack.database))
        with server.connect(stack.database) as connection:
            connection.execute(SCHEMA.read_bytes())
            for role, privilege in (("analytics", "append"), ("dbt", "read")):
                connection.execute(raw_grants(DatabaseGrant(stack.database, role, privilege, "raw")).sql.encode())  # type: ignore[arg-type]
        yield dataclasses.replace(stack, server=server)
