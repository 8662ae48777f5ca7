"""The raw tables on a real PostgreSQL 16: migration, partitions, retention, and how rows are stored."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from homelab.model import DatabaseGrant
from homelab.services.postgres import retention
from homelab.services.raw_schema import raw_grants
from tests import odd_json
from tests.integration import pg
from tests.integration.waiting import until
from tests.scripts import SCHEMA

import ingest_weather  # isort: skip
import raw_tables  # isort: skip
from loader import Loader, RunSummary  # isort: skip
from spool import Spool, observation_line, quarantine_line  # isort: skip

TABLES = SCHEMA.read_bytes()
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
# The tables of the version before revisions and transaction ids: partitioned, one month older than the present one.
PARTITIONED = b"""
create schema raw;
create schema upkeep;
create table raw.weather_observations (
    id bigint generated always as identity,
    city text not null,
    ingested_at timestamptz not null default now(),
    data jsonb compression lz4 not null,
    units text constraint weather_observations_units check (units in ('standard', 'metric', 'imperial')),
    constraint weather_observations_key primary key (ingested_at, id)
) partition by range (ingested_at);
create index weather_observations_told on raw.weather_observations (city, (data ->> 'dt') collate "C");
create table raw.old partition of raw.weather_observations
for values from (minvalue) to (date_trunc('month', now() at time zone 'UTC') at time zone 'UTC');
create table raw.current partition of raw.weather_observations
for values from (date_trunc('month', now() at time zone 'UTC') at time zone 'UTC')
to ((date_trunc('month', now() at time zone 'UTC') + interval '1 month') at time zone 'UTC');
insert into raw.weather_observations (city, ingested_at, data)
select 'C' || n % 100, now() - make_interval(hours => 20000 - n), jsonb_build_object('dt', 1500000000 + n / 2)
from generate_series(1, 20000) as n;
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
            step = raw_grants(DatabaseGrant(database, role, privilege, "raw"))  # type: ignore[arg-type]
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


def test_older_table_becomes_a_partition_with_every_row(postgres: pg.Server, database: str) -> None:
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


@pytest.mark.parametrize("earlier", [BEFORE, PARTITIONED], ids=["plain", "partitioned"])
def test_older_rows_get_a_revision_and_a_transaction_without_a_rewrite(
    postgres: pg.Server, database: str, earlier: bytes
) -> None:
    with postgres.connect(database) as connection:
        connection.execute(earlier)
        before = fingerprint(connection)
        files = (
            "select array_agg(pg_relation_filenode(oid) order by oid) from pg_class where relname in ('old', 'current')"
        )
        filenodes = connection.execute(files.encode()).fetchone()
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        assert fingerprint(connection) == before
        assert connection.execute(files.encode()).fetchone() == filenodes
        found = connection.execute(
            "select count(distinct inserted_xid), bool_and(inserted_xid < pg_current_xact_id()), max(revision) "
            "from raw.weather_observations"
        ).fetchone()
        assert found == (1, True, 0)
        indexed = connection.execute(
            "select count(*) from pg_indexes where indexdef like '%(inserted_xid)' and schemaname = 'raw'"
        ).fetchone()
        assert indexed == (len(partitions(connection)) + 1,)
    with postgres.connect(database, "analytics", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('A', '{}')")
    with postgres.connect(database, "dbt", "dbt") as connection:
        assert connection.execute(
            "select city, revision from raw.weather_observations where inserted_xid > "
            "(select min(inserted_xid) from raw.weather_observations)"
        ).fetchall() == [("A", 0)]


@pytest.mark.parametrize("earlier", [BEFORE, PARTITIONED], ids=["plain", "partitioned"])
@pytest.mark.parametrize("seed", range(4))
def test_killed_migration_loses_no_row(postgres: pg.Server, database: str, seed: int, earlier: bytes) -> None:
    with postgres.connect(database) as connection:
        connection.execute(earlier)
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
        dropped = connection.execute("select month::text from raw.dropped_months order by 1").fetchall()
        assert dropped == [("2020-01-01",), ("2021-01-01",)]


def test_every_month_of_a_dropped_older_table_is_recorded(postgres: pg.Server, database: str) -> None:
    with postgres.connect(database) as connection:
        connection.execute(
            PARTITIONED.replace(b"now() - make_interval(hours => 20000 - n)", b"now() - interval '2 years'")
        )
        connection.execute(
            "insert into raw.weather_observations (city, ingested_at, data) "
            "values ('A', now() - interval '5 months', '{}')"
        )
        expected = connection.execute(
            "select month::date::text from generate_series(date_trunc('month', now() at time zone 'UTC') "
            "- interval '24 months', date_trunc('month', now() at time zone 'UTC') - interval '1 month', "
            "interval '1 month') as month order by 1"
        ).fetchall()
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        # The retention keeps one whole month: attach the older table as one that ends two months ago.
        connection.execute("insert into upkeep.retention (months) values (0) on conflict do nothing")
        connection.execute("update upkeep.retention set months = 1")
        connection.execute("delete from raw.old where ingested_at > now() - interval '3 months'")
        connection.execute("alter table raw.weather_observations detach partition raw.old")
        connection.execute(
            f"alter table raw.weather_observations attach partition raw.old for values from (minvalue) "
            f"to ('{expected[-2][0]} 00:00+00')".encode()
        )
        connection.execute("select upkeep.partitions()")
        dropped = connection.execute("select month::text from raw.dropped_months order by 1").fetchall()
    assert dropped == expected[:-2]


def test_quarantine_and_runs_are_kept_for_two_years(postgres: pg.Server, database: str) -> None:
    deploy(postgres, database)
    with postgres.connect(database) as connection:
        for months_ago in (23, 26):
            connection.execute(
                "insert into raw.quarantine (city, received_at, ingested_at, reason, bytes, body) "
                "select %s, now(), now() - make_interval(months => %s), '', 0, ''",
                (str(months_ago), months_ago),
            )
            connection.execute(
                "insert into raw.ingestion_starts select gen_random_uuid(), now() - make_interval(months => %s)",
                (months_ago,),
            )
        connection.execute("select upkeep.partitions()")
        assert connection.execute("select city from raw.quarantine").fetchall() == [("23",)]
        assert connection.execute("select count(*) from raw.ingestion_starts").fetchone() == (1,)


# The tables with a clock that a test sets.
CLOCK = b"coalesce(nullif(current_setting('test.now', true), '')::timestamptz, pg_catalog.now())"
WITH_CLOCK = re.sub(rb"(?<!')\bnow\(\)", CLOCK, TABLES)


def call_at(connection: Connection, *times: str) -> None:
    """Call upkeep.partitions() at these times, as runs of the ingestion do."""
    for time_ in times:
        connection.execute("select set_config('test.now', %s, false)", (time_,))
        connection.execute("select upkeep.partitions()")


@pytest.mark.parametrize(
    ("calls", "month"),
    [
        (("2026-11-28", "2027-04-10", "2026-11-28", "2027-03-02"), "2027-03"),
        (("2026-11-28", "2036-01-01", "2026-11-29", "2026-12-15"), "2027-03"),
        (("2026-11-28", "2036-01-01", "2026-11-29", "2035-12-31"), "2036-04"),
        (("2036-01-01", "2026-11-29"), "2026-11"),
        (("2026-11-28", "2026-11-29"), "2020-01"),  # of an older table, from minvalue on
    ],
)
def test_months_between_partitions_are_made_when_their_time_comes(
    postgres: pg.Server, database: str, calls: tuple[str, ...], month: str
) -> None:
    with postgres.connect(database) as connection:
        connection.execute("select set_config('test.now', %s, false)", (calls[0],))
        if month == "2020-01":
            connection.execute(re.sub(rb"\bnow\(\)", CLOCK, PARTITIONED))
        connection.execute(WITH_CLOCK)
        call_at(connection, *calls)
        connection.execute(
            "insert into raw.weather_observations (city, data, ingested_at) values ('A', '{}', %s)", (f"{month}-28",)
        )
        names = partitions(connection)
        assert len(set(names)) == len(names)
        overlaps = connection.execute(
            "select one.name, other.name from upkeep.bounds as one join upkeep.bounds as other "
            "on one.name <> other.name and one.since < other.upto and other.since < one.upto"
        ).fetchall()
        assert overlaps == []


NOTHING, OLD = {"old", "new"}, {"new"}  # the rows that are left
HOURLY = [f"2026-11-28 {hour:02}:00" for hour in range(3)]


@pytest.mark.parametrize(
    ("calls", "left", "since"),
    [
        # The first call: the clock has made no jump yet.
        (["2026-11-28"], OLD, "-infinity"),
        (HOURLY, OLD, "-infinity"),
        # Ahead for a while, then right: nothing is deleted until a week after the return.
        (["2026-02-10", "2036-01-01"], NOTHING, "2036-01-01"),
        (["2026-02-10", "2036-01-01", "2036-01-07", "2026-02-11"], NOTHING, "2026-02-11"),
        (["2026-02-10", "2036-01-01", "2026-11-01", "2026-11-07 23:00"], NOTHING, "2026-11-01"),
        (["2026-02-10", "2036-01-01", "2026-11-01", "2026-11-08 01:00"], OLD, "2026-11-01"),
        # Right after a time without calls: the same, as that could be a jump.
        (["2026-02-10", "2026-11-01"], NOTHING, "2026-11-01"),
        (["2026-02-10", "2026-11-01", "2026-11-09"], OLD, "2026-11-01"),
        # Back by an hour is no jump, by more it is.
        (["2026-02-10 10:00", "2026-02-10 09:00", "2026-03-09", "2026-04-08"], NOTHING, "-infinity"),
        (["2026-02-10 10:00", "2026-02-10 08:59"], NOTHING, "2026-02-10 08:59"),
    ],
)
def test_clock_that_was_wrong_for_a_while_deletes_nothing(
    postgres: pg.Server, database: str, calls: list[str], left: set[str], since: str
) -> None:
    """The old rows are of January 2026, and 6 months are kept."""
    rows = {"old": "2026-01-20", "new": "2026-05-20"}
    with postgres.connect(database) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set test.now = '2026-01-15'")
        connection.execute(WITH_CLOCK)
        connection.execute("delete from upkeep.clock; delete from raw.dropped_runs")
        connection.execute("insert into upkeep.retention (months) values (6)")
        connection.execute(
            "insert into raw.weather_observations (city, data, ingested_at) values ('old', '{}', %s)", (rows["old"],)
        )
        for name, time_ in rows.items():
            connection.execute(
                "insert into raw.quarantine (city, received_at, ingested_at, reason, bytes, body) "
                "values (%s, %s, %s, '', 0, '')",
                (name, time_, time_),
            )
            connection.execute("insert into raw.ingestion_starts values (gen_random_uuid(), %s)", (time_,))
        call_at(connection, *calls)
        found = connection.execute(
            "select array(select city from raw.quarantine order by 1), (select count(*) from raw.ingestion_starts), "
            "(select count(*) from raw.weather_observations), array(select month::text from raw.dropped_months "
            "order by 1 limit 1), exists (select from raw.dropped_runs where dropped_before > '2026-01-20')"
        ).fetchone()
        is_kept = left == NOTHING
        assert found == (sorted(left), len(left), int(is_kept), [] if is_kept else ["2026-01-01"], not is_kept)
        assert connection.execute("select steady_since = %s from upkeep.clock", (since,)).fetchone() == (True,)


def test_incremental_read_uses_the_index_of_one_month(postgres: pg.Server, database: str) -> None:
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


def test_next_batch_is_queued_while_postgresql_is_busy(
    postgres: pg.Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(postgres, database)
    for name, value in postgres.environment(database, "analytics", "analytics").items():
        monkeypatch.setenv(name, value)
    run, summary, spool = uuid4(), RunSummary(3), Spool(tmp_path, 1 << 20)
    with postgres.connect(database) as another:
        another.execute("begin")
        another.execute("lock table upkeep.writer_lock in exclusive mode")
        loader = Loader(run, summary, spool)
        until(lambda: another.execute("select run from raw.ingestion_starts").fetchall() == [(run,)], 10)
        assert [loader.should_flush(rows) for rows in (0, 999, 1000, 1001, 10_000)] == [False, False, True, False, True]
        for number in range(3):
            spool.add(observation_line(f"C{number}", "metric", 1, '{"dt": 1}'))
            if number < 2:
                ingest_weather.flush(spool, loader)  # returns while the lock is held
        assert [loader.should_flush(rows) for rows in (1000, 10_000)] == [False, True]
        another.execute("commit")
        ingest_weather.flush(spool, loader)
        loader.finish()
        assert (summary.stored, summary.problem, list(tmp_path.iterdir())) == (3, None, [])
        assert another.execute("select stored, finished is not null from raw.ingestion_runs").fetchall() == [(3, True)]


LOCK_MODES = ("exclusive", "share row exclusive", "share", "row exclusive", "row share")


@pytest.mark.parametrize("attack", ["advisory locks", "table locks"])
def test_reader_cannot_hold_up_the_ingestion(
    postgres: pg.Server, database: str, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    deploy(postgres, database)
    for name, value in postgres.environment(database, "analytics", "analytics").items():
        monkeypatch.setenv(name, value)
    with postgres.connect(database) as admin, postgres.connect(database, "dbt", "dbt") as reader:
        if attack == "advisory locks":
            reader.execute("select pg_advisory_lock(1717, key) from generate_series(0, 100) as key")
        else:
            tables = [
                f"{schema}.{name}"
                for schema, name in admin.execute(
                    "select schemaname, tablename from pg_tables where schemaname in ('raw', 'upkeep')"
                )
            ]
            for table in tables:
                for mode in LOCK_MODES:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
                        reader.execute(f"lock table {table} in {mode} mode".encode())
            reader.execute("begin")
            reader.execute("lock table raw.weather_observations, raw.schedules in access share mode")
        with raw_tables.connect() as connection:
            connection.execute("set lock_timeout = '2s'")
            raw_tables.record_settings(connection, "@hourly", {"A": None})
            assert raw_tables.store(connection, raw_tables.Batch.of([line("A", int(time.time()), 1)])).stored == 1


def test_row_is_later_than_the_commit_of_the_writer_before(
    postgres: pg.Server, database: str, ingestion: raw_tables.Connection
) -> None:
    with postgres.connect(database) as another:
        another.execute("begin")
        another.execute("lock table upkeep.writer_lock in exclusive mode")
        batch = raw_tables.Batch.of([line("A", int(time.time()), 1)])
        waiting = threading.Thread(target=raw_tables.store, args=(ingestion, batch))
        waiting.start()
        until(lambda: another.execute("select from pg_locks where not granted").fetchall() != [], 10)
        committed = another.execute("select clock_timestamp()").fetchone()
        another.execute("commit")
        waiting.join()
        (stored,) = another.execute("select ingested_at from raw.weather_observations").fetchall()
    assert committed
    assert stored > committed


def next_month() -> str:
    name = months(2)[1]
    return f"{name[-7:-3]}-{name[-2:]}-02"


@pytest.fixture
def ingestion(postgres: pg.Server, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[raw_tables.Connection]:
    """The ingestion's connection to a deployed database."""
    deploy(postgres, database)
    for name, value in postgres.environment(database, "analytics", "analytics").items():
        monkeypatch.setenv(name, value)
    with raw_tables.connect() as connection:
        yield connection


def line(city: str, dt: int, temperature: float, units: str = "metric") -> bytes:
    return observation_line(city, units, dt, json.dumps({"dt": dt, "main": {"temp": temperature}}))


def test_replacement_is_the_next_revision_where_values_differ(ingestion: raw_tables.Connection) -> None:
    def put(*lines: bytes, replace: bool = True) -> tuple[int, int, int]:
        result = raw_tables.store(ingestion, raw_tables.Batch.of(lines, latest=replace), replace=replace)
        return result.stored, result.replaced, result.unchanged

    now = int(time.time())
    assert put(line("A", now, 1), line("A", now - 3600, 1), replace=False) == (2, 0, 0)
    assert put(line("A", now, 1), line("A", now - 3600, 2), line("B", now, 3)) == (1, 1, 1)
    assert put(line("A", now, 1), line("A", now - 3600, 2), line("B", now, 3)) == (0, 0, 3), "repeated"
    assert put(line("A", now, 1, "imperial")) == (0, 1, 0), "other units"
    assert put(line("A", now - 3600, 1)) == (0, 1, 0), "back to the first value"
    assert put(line("B", now, 4), line("B", now, 5)) == (0, 1, 1), "the last version of a file counts"
    assert put(line("A", now - 3600, 9), replace=False) == (0, 0, 1), "without --replace nothing is replaced"
    assert put() == (0, 0, 0)
    rows = ingestion.execute(
        "select city, (data ->> 'dt')::bigint - %s, revision, data #>> '{main,temp}', units "
        "from raw.weather_observations order by city, 2, 3",
        (now,),
    ).fetchall()
    assert rows == [
        ("A", -3600, 0, "1", "metric"),
        ("A", -3600, 1, "2", "metric"),
        ("A", -3600, 2, "1", "metric"),
        ("A", 0, 0, "1", "metric"),
        ("A", 0, 1, "1", "imperial"),
        ("B", 0, 0, "3", "metric"),
        ("B", 0, 1, "5", "metric"),
    ]


def test_row_that_is_refused_in_a_replacement_is_quarantined_alone(ingestion: raw_tables.Connection) -> None:
    now = int(time.time())
    bad = observation_line("A", "metric", now, rf'{{"dt": {now}, "main": {{}}, "name": "\u0000"}}')
    result = raw_tables.store(ingestion, raw_tables.Batch.of([line("B", now, 1), bad], latest=True), replace=True)
    assert (result.stored, result.quarantined, [city for city, _ in result.refused]) == (1, 1, ["A"])


def test_clock_that_was_ahead_stores_nothing_twice(postgres: pg.Server, ingestion: raw_tables.Connection) -> None:
    now = int(time.time())
    ingestion.execute(
        "insert into raw.weather_observations (city, data, ingested_at) "
        "values ('A', jsonb_build_object('dt', %s), now() + interval '26 hours')",
        (now,),
    )
    assert raw_tables.store(ingestion, raw_tables.Batch.of([line("A", now, 1)])).unchanged == 1


DEEP = '{"dt": 1600000000, "main": {}, "x": ' + "[" * 20_000 + "]" * 20_000 + "}"


@pytest.mark.parametrize(
    "damaged",
    [
        b"no tabs\n",
        b"\n",
        b"1600000000\tA\n",
        b"1600000000\tA\tmetric\n",
        b"1600000000\tA\tkelvin\t{}\n",
        b"1600000000\tA\tmetric\tno json\n",
        b"1600000000\tA\tmetric\t{}\tmore\n",
        b"soon\tA\tmetric\t{}\n",
        b"99999999999999999999\tA\tmetric\t{}\n",
        b"1600000000\t\xff\tmetric\t{}\n",
        b"1600000000\tA\0\tmetric\t{}\n",
        b"1600000000\t" + random.Random(1).randbytes(4000).hex().encode() + b"\tmetric\t{}\n",  # noqa: S311
        b"1600000000\tA\tmetric\t" + DEEP.encode() + b"\n",
        b"\tA\tmetric\n",
        b"\tA\tmetric\tyesterday, perhaps\t1\treason\t00\n",
        b"\tA\tmetric\t2026-01-01T00:00:00+00:00\tmany\treason\t00\n",
        b"\tA\tmetric\t2026-01-01T00:00:00+00:00\t1\treason\tzz\n",
        b"\tA\tmetric\t2026-01-01T00:00:00+00:00\t1\tits key a\0b\t00\n",  # as an earlier version wrote it
        b"\x00\xff\xfe" * 50 + b"\n",
    ],
)
def test_damaged_line_of_the_spool_is_quarantined_and_the_others_are_stored(
    ingestion: raw_tables.Connection, tmp_path: Path, damaged: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [line("B", 1_600_000_000, 1), line("C", 1_600_000_000, 1)]
    (tmp_path / "1.rows").write_bytes(good[0] + damaged + good[1])
    summary, spool = RunSummary(0), Spool(tmp_path, 1 << 20)
    loader = Loader(uuid4(), summary, spool)
    for segment in spool.abandoned():
        loader.submit(segment)
    loader.finish()
    assert (summary.problem, summary.recovered, list(tmp_path.iterdir())) == (None, 2, [])
    stored = ingestion.execute("select city from raw.weather_observations order by 1").fetchall()
    assert stored == [("B",), ("C",)]
    ((reason,),) = ingestion.execute("select reason from raw.quarantine").fetchall()
    assert reason in capsys.readouterr().err or "damaged" in str(reason) or "its key" in str(reason)


def test_schedule_and_the_time_zones_are_recorded_when_they_change(ingestion: raw_tables.Connection) -> None:
    for schedule, timezones in (
        ("@hourly", {"A": None, "B": "Europe/Berlin"}),
        ("@hourly", {"A": "Asia/Tokyo", "B": "Europe/Berlin", "C": None}),
        ("@daily", {"A": None}),
        ("@hourly", {}),
    ):
        for _ in range(2):
            raw_tables.record_settings(ingestion, schedule, timezones)
    schedules = ingestion.execute("select schedule from raw.schedules order by valid_from").fetchall()
    assert schedules == [("@hourly",), ("@daily",), ("@hourly",)]
    assert ingestion.execute("select city, timezone from raw.city_settings order by 1").fetchall() == [
        ("A", None),
        ("B", "Europe/Berlin"),
        ("C", None),
    ]
    for refused in ("update raw.city_settings set timezone = 'x'", "delete from raw.schedules"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ingestion.execute(refused.encode())


def test_exclusions_are_appended_and_revoked(
    postgres: pg.Server, database: str, ingestion: raw_tables.Connection
) -> None:
    ingestion.execute(
        "insert into raw.exclusion_entries (city, first, until, reason, excluded_by) "
        "values ('A', '2026-01-01', '2026-01-02', 'a sensor', 'me'), (null, '2026-01-01', '2026-01-02', 'all', 'me')"
    )
    ingestion.execute("insert into raw.exclusion_entries (revokes, reason, excluded_by) values (1, 'repaired', 'you')")
    with postgres.connect(database, "dbt", "dbt") as connection:
        rows = connection.execute(
            "select id, city, revoked_at is not null, revoked_by, inserted_xid > lag(inserted_xid) over (order by id) "
            "from raw.exclusions order by id"
        ).fetchall()
    assert rows == [(1, "A", True, "you", None), (2, None, False, None, False)]
    for refused in (
        "insert into raw.exclusion_entries (city, first, until, reason, excluded_by) "
        "values ('A', '2026-01-02', '2026-01-02', 'empty', 'me')",
        "insert into raw.exclusion_entries (revokes, reason, excluded_by) values (1, 'again', 'me')",
        "insert into raw.exclusion_entries (revokes, reason, excluded_by) values (99, 'unknown', 'me')",
        "insert into raw.exclusion_entries (revokes, city, reason, excluded_by) values (2, 'B', 'both', 'me')",
    ):
        with pytest.raises(psycopg.IntegrityError):
            ingestion.execute(refused.encode())
    for refused in ("delete from raw.exclusion_entries", "update raw.exclusions set reason = 'x'"):
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
            ingestion.execute(refused.encode())


@pytest.mark.parametrize("seed", range(5))
def test_random_damage_of_a_spool_loses_no_good_line(
    ingestion: raw_tables.Connection, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    good = [line(f"G{number}", 1_600_000_000, number) for number in range(20)]
    bad = []
    for number in range(40):
        document = {"dt": 1_600_000_000 + number, "main": {"temp": 1}, "wind": {"speed": 2}, "name": "x"}
        text = odd_json.dumped(odd_json.mutate(chance, document, 2))
        bad.append(odd_json.damage(chance, observation_line("B", "metric", 1, text)).replace(b"\n", b"") + b"\n")
    mixed = [*good, *bad]
    chance.shuffle(mixed)
    (tmp_path / "1.rows").write_bytes(b"".join(mixed))
    summary, spool = RunSummary(0), Spool(tmp_path, 1 << 20)
    loader = Loader(uuid4(), summary, spool)
    for segment in spool.abandoned():
        loader.submit(segment)
    loader.finish()
    assert (summary.problem, list(tmp_path.iterdir())) == (None, [])
    found = ingestion.execute("select count(*) from raw.weather_observations where city ~ '^G[0-9]+$'").fetchone()
    assert found == (20,)
