"""kill -9 of the ingestion at random moments: no spooled response is lost, none is stored twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.conftest import KEY, Replay, replay_server
from tests.scripts import SCHEMA, SCRIPTS

from contract import EXIT  # isort: skip

KILLS = int(os.environ.get("HOMELAB_KILLS", "8"))
CITIES = 300
pytestmark = pytest.mark.timeout(60 + 10 * KILLS)


@pytest.fixture
def database(postgres: pg.Server) -> Iterator[str]:
    with postgres.role("analytics", "analytics"), postgres.role("dbt", "dbt"), postgres.database("ingest_kill") as name:
        with postgres.connect(name) as connection:
            connection.execute(f"revoke all on database {name} from public".encode())
            connection.execute(SCHEMA.read_bytes())
            connection.execute(raw_grants(DatabaseGrant(name, "analytics", "append", "raw")).sql.encode())
        yield name


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    with replay_server(tmp_path, "--generated", str(CITIES)) as running:
        yield running


def stored(server: pg.Server, database: str) -> list[tuple[str, str]]:
    with server.connect(database) as connection:
        return [
            (str(city), str(dt))
            for city, dt in connection.execute("select city, data ->> 'dt' from raw.weather_observations")
        ]


def spooled(data: Path) -> set[tuple[str, str]]:
    """Return city and time of the complete lines of the spool."""
    lines = [
        line
        for path in (data / "spool").glob("*.rows")
        for line in path.read_bytes().splitlines(True)
        if line.endswith(b"\n")
    ]
    return {(city.decode(), dt.decode()) for dt, city, *_ in (line.split(b"\t") for line in lines)}


Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def start(postgres: pg.Server, database: str, replay: Replay, data: Path, tmp_path: Path) -> Start:
    cities = tmp_path / "cities.csv"
    cities.write_text("name,id\n" + "".join(f"C{number},{number}\n" for number in range(1, CITIES + 1)))
    environment = {
        **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
        **postgres.environment(database, "analytics", "analytics"),
        "WEATHER_DATA": str(data),
        "WEATHER_CITIES_FILE": str(cities),
        "OPENWEATHER_BASE_URL": replay.url,
        "OPENWEATHER_API_KEY": KEY,
        "OPENWEATHER_RATE_LIMIT": "0",
    }
    return lambda: subprocess.Popen(
        [sys.executable, str(SCRIPTS / "ingest_weather.py")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_terminated_connections_lose_nothing(postgres: pg.Server, database: str, data: Path, start: Start) -> None:
    running, terminated = start(), 0
    with postgres.connect() as connection:
        while running.poll() is None:
            terminated += len(
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'ingest_weather'"
                ).fetchall()
            )
            time.sleep(0.02)
    assert terminated > 0
    assert running.returncode in (EXIT.success, EXIT.failed, EXIT.partial)
    kept = set(stored(postgres, database)) | spooled(data)
    assert len(kept) == CITIES
    assert start().wait(60) == 0
    assert sorted(stored(postgres, database)) == sorted(kept)
    assert spooled(data) == set()


def test_killed_runs_lose_nothing(postgres: pg.Server, database: str, replay: Replay, data: Path, start: Start) -> None:
    started = time.monotonic()
    assert start().wait(60) == 0
    duration = time.monotonic() - started
    chance = random.Random(5)  # noqa: S311
    known, killed = set(stored(postgres, database)), 0
    for number in range(KILLS):
        # The next hour: every response is new.
        urllib.request.urlopen(f"{replay.url}/_hour?appid={KEY}", data=b"", timeout=10).close()  # noqa: S310
        # Some runs are parallel, some find the spool of the run before.
        running = [start() for _ in range(1 + number % 2)]
        time.sleep(chance.uniform(0.3, 1) * duration)
        for process in running:
            process.kill()
            killed += process.wait() != 0
        known |= set(stored(postgres, database)) | spooled(data)
        if number % 3 == 2:
            assert start().wait(60) == 0
            found = stored(postgres, database)
            assert len(found) == len(set(found)), "an observation is stored twice"
            assert known <= set(found), "an observation is lost"
            assert spooled(data) == set()
    assert start().wait(60) == 0
    found = stored(postgres, database)
    assert len(found) == len(set(found)), "an observation is stored twice"
    assert known <= set(found), "an observation is lost"
    assert spooled(data) == set()
    assert killed >= KILLS // 2
