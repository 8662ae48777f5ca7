"""The raw tables on a real PostgreSQL 16: migration, partitions, retention, and how rows are stored."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from homelab.model import DatabaseGrant
from homelab.services.postgres import grants, retention
from tests.integration import pg
from tests.scripts import ROOT

import ingest_weather  # isort: skip
import raw_tables  # isort: skip
from loader import Loader, RunSummary  # isort: skip
from spool import Spool, observation_line, quarantine_line  # isort: skip

TABLES = (ROOT / "templates" / "postgres" / "project_data.sql").read_bytes()
# The first version's table, with duplicates and rows that are not observations.
BEFORE = b"""
create schema raw;
create table raw.weather_observations (
    id bigint generated always as identity primary key,
    city text not null,
    ingested_at timestamptz not null default now(),
    data jsonb not null
);
create index weather_observations_ingested_at on raw.weather_observations (ingested_at);
insert into raw.weather_observations (city, ingested_at, data)
select 'C' || n % 100, now() - make_interval(hours => 20000 - n), jsonb_build_object('dt', n / 2, 'main', '{}'::jsonb)
from generate_series(1, 20000) as n;
insert into raw.weather_observations (city, data) values ('odd', '{}'), ('odd', '[]'), ('odd', '{"dt": true}');
"""
Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def database(postgres: pg.Server) -> Iterator[str]:
    with postgres.role("analytics", "analytics"), postgres.role("dbt", "dbt"), postgres.database("raw_tables") as name:
        with postgres.connect(name) as connection:
            connection.execute(f"revoke all on database {name} from public".encode())
        yield name


def deploy(server: pg.Server, database: str) -> None:
    """Create the tables and grants as in a deploy; the repetition must change nothing."""
    with server.connect(database) as connection:
        for _ in range(2):
            connection.execute(TABLES)
        for role, privilege in (("analytics", "append"), ("dbt", "read")):
            step = grants(DatabaseGrant(database, role, privilege))  # type: ignore[arg-type]
            connection.execute(step.sql.encode())
            assert connection.execute(step.done.encode()).fetchone() == (True,)


def partitions(connection: Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute("select name from upkeep.bounds order by upto")]


def fingerprint(connection: Connection) -> object:
    return connection.execute(
        "select count(*), md5(string_agg(r::text, '' order by id)) from "
        "(select id, city, ingested_at, data from raw.weather_observations) as r"
    ).fetchone()


def months(ahead: int) -> list[str]:
    now = datetime.now(UTC)
    return [
        f"weather_observations_{now.year + (now.month - 1 + n) // 12}_{(now.month - 1 + n) % 12 + 1:02}"
        for n in range(ahead)
    ]


def test_partitions_are_created_ahead(postgres: pg.Server, database: str) -> None:
    deploy(postgres, database)
    with postgres.connect(database, "analytics", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data, units) values ('A', '{}', 'metric')")
        assert connection.execute("select tableoid::regclass::text from raw.weather_observations").fetchall() == [
            (f"raw.{months(1)[0]}",)
        ]
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("insert into raw.weather_observations (city, data, units) values ('A', '{}', 'kelvin')")
    with postgres.connect(database) as connection:
        assert partitions(connection) == months(4)
        connection.execute(f"drop table raw.{months(4)[3]}".encode())
    with postgres.connect(database, "analytics", "analytics") as connection:
        connection.execute("select upkeep.partitions()")  # as the ingestion does before it writes
    with postgres.connect(database) as connection:
        assert partitions(connection) == months(4)
        compressed = connection.execute(
            "select distinct attcompression from pg_attribute join pg_class on pg_class.oid = attrelid "
            "where attname = 'data' and relname like 'weather_observations%' and relkind in ('r', 'p')"
        ).fetchall()
        assert compressed == [("l",)]


def test_an_older_table_becomes_a_partition_with_every_row(postgres: pg.Server, database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute(BEFORE)
        before = fingerprint(connection)
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        assert fingerprint(connection) == before
        assert partitions(connection) == ["weather_observations_before", *months(4)[1:]]
    with postgres.connect(database, "analytics", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('A', '{}')")
        assert connection.execute("select id from raw.weather_observations where city = 'A'").fetchall() == [(20004,)]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_migration_loses_no_row(postgres: pg.Server, database: str, seed: int) -> None:
    with postgres.connect(database) as connection:
        connection.execute(BEFORE)
        before = fingerprint(connection)
    chance = random.Random(seed)  # noqa: S311
    for _ in range(4):
        victim = postgres.connect(database)
        pid = victim.info.backend_pid
        timer = threading.Timer(chance.uniform(0, 0.08), kill, (postgres, pid))
        timer.start()
        with suppress(psycopg.OperationalError):
            victim.execute(TABLES)
        timer.join()
        with postgres.connect(database) as connection:
            assert fingerprint(connection) == before
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        assert fingerprint(connection) == before
        assert connection.execute(
            "select relkind from pg_class where oid = 'raw.weather_observations'::regclass"
        ).fetchone() == ("p",)


def kill(server: pg.Server, pid: int) -> None:
    with server.connect() as connection:
        connection.execute("select pg_terminate_backend(%s)", (pid,))


def test_rows_past_the_retention_are_dropped(postgres: pg.Server, database: str) -> None:
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        for year in (2020, 2021):
            connection.execute(
                f"create table raw.old_{year} partition of raw.weather_observations "
                f"for values from ('{year}-01-01') to ('{year}-02-01')".encode()
            )
            connection.execute(
                "insert into raw.weather_observations (city, data, ingested_at) values ('A', '{}', %s)",
                (f"{year}-01-05",),
            )
        connection.execute(
            "insert into raw.quarantine (city, received_at, ingested_at, reason, bytes, body) "
            "values ('A', now(), '2020-01-01', '', 0, ''), ('B', now(), now(), '', 0, '')"
        )
        now = datetime.now(UTC)
        for keep, left in ((0, 2), ((now.year - 2020) * 12 + now.month - 2, 1), (1, 0)):
            step = retention(keep)
            connection.execute(step.sql.encode())
            assert connection.execute(step.done.encode()).fetchone() == (True,)
            with postgres.connect(database, "analytics", "analytics") as ingestion:
                ingestion.execute("select upkeep.partitions()")
            assert connection.execute("select count(*) from raw.weather_observations").fetchone() == (left,), keep
        assert connection.execute("select city from raw.quarantine").fetchall() == [("B",)]
        assert partitions(connection) == months(4)


def test_the_incremental_read_uses_the_index_of_one_month(postgres: pg.Server, database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute(BEFORE)
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        connection.execute("analyze raw.weather_observations")
    with postgres.connect(database, "dbt", "dbt") as connection:
        connection.execute("begin read only")
        plan = "\n".join(
            str(line)
            for (line,) in connection.execute(
                "explain select id from raw.weather_observations where ingested_at > now() - interval '1 hour'"
            )
        )
        assert "Index" in plan
        assert "Seq Scan on weather_observations_before" not in plan
        literal = "\n".join(
            str(line)
            for (line,) in connection.execute(
                f"explain select id from raw.weather_observations where ingested_at > '{next_month()}'".encode()  # noqa: S608
            )
        )
        assert "weather_observations_before" not in literal


def test_observations_are_stored_unchanged_and_once(
    postgres: pg.Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(postgres, database)
    for name, value in postgres.environment(database, "analytics", "analytics").items():
        monkeypatch.setenv(name, value)
    now = int(datetime.now(UTC).timestamp())
    samples = [
        ("plain", now, '{"a": 1}'),
        ("tab\there\n", now, '{\n\t"a": "b\\\\c\\n\\u00fc"\r\n}'),
        (r"back\slash \t \N", now, '{"a": 2}'),
        ("Zürich", now, '{"a": "Zürich, 北京, 🌧"}'),
        ("plain", now - 3600, '{"a": 3}'),
        (r"\N", 0, "{}"),
        ("before", 1577836800 + 86400, "{}"),
        ("plain", now, '{"a": "a later version"}'),
    ]
    lines = [
        observation_line(city, "metric", dt, text.replace("{", f'{{"dt": {dt}, ', 1).replace(", }", "}"))
        for city, dt, text in samples
    ]
    with postgres.connect(database) as connection:
        connection.execute(
            "create table raw.old_2020 partition of raw.weather_observations "
            "for values from ('2020-01-01') to ('2020-02-01')"
        )
        connection.execute(
            "insert into raw.weather_observations (city, data, ingested_at) "
            "values ('before', '{\"dt\": 1577923200}', '2020-01-04')"
        )
    with raw_tables.connect() as connection:
        quarantined = quarantine_line("odd", "metric", "reason\t\0", b"\0")
        result = raw_tables.store(connection, raw_tables.Batch.of([*lines, quarantined]))
        assert (result.stored, result.unchanged, result.quarantined) == (len(samples) - 2, 2, 1)
        for repeated in (lines, *([line] for line in lines)):
            assert raw_tables.store(connection, raw_tables.Batch.of(repeated)).stored == 0
        assert raw_tables.store(connection, raw_tables.Batch.of([])) == raw_tables.StoreResult()
    with postgres.connect(database) as connection:
        stored = {
            (city, dt): (units, data)
            for city, dt, units, data in connection.execute(
                "select city, (data ->> 'dt')::bigint, units, data from raw.weather_observations where city <> 'before'"
            )
        }
        assert stored == {
            (city, dt): ("metric", {"dt": dt, **json.loads(text)})
            for city, dt, text in reversed(samples)
            if city != "before"
        }
        assert connection.execute("select reason, body from raw.quarantine").fetchall() == [
            (r"reason\u0009\u0000", b"\0")
        ]


def test_the_next_batch_is_queued_while_postgresql_is_busy(
    postgres: pg.Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(postgres, database)
    for name, value in postgres.environment(database, "analytics", "analytics").items():
        monkeypatch.setenv(name, value)
    run, summary, spool = uuid4(), RunSummary(3), Spool(tmp_path, 1 << 20)
    with postgres.connect(database) as another:
        another.execute("select pg_advisory_lock(1717, 1)")
        loader = Loader(run, summary, spool)
        wait_for(lambda: another.execute("select run from raw.ingestion_starts").fetchall() == [(run,)])
        assert [loader.should_flush(rows) for rows in (0, 999, 1000, 1001, 10_000)] == [False, False, True, False, True]
        for number in range(3):
            spool.add(observation_line(f"C{number}", "metric", 1, '{"dt": 1}'))
            if number < 2:
                ingest_weather.flush(spool, loader)  # returns while the lock is held
        assert [loader.should_flush(rows) for rows in (1000, 10_000)] == [False, True]
        another.execute("select pg_advisory_unlock(1717, 1)")
        ingest_weather.flush(spool, loader)
        loader.finish()
        assert (summary.stored, summary.problem, list(tmp_path.iterdir())) == (3, None, [])
        assert another.execute("select stored, finished is not null from raw.ingestion_runs").fetchall() == [(3, True)]


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition did not hold within 10 s")


def next_month() -> str:
    name = months(2)[1]
    return f"{name[-7:-3]}-{name[-2:]}-02"
