"""A pipeline that `homelab pipeline new` writes, on a real PostgreSQL 16 with the roles of a deploy, dbt and DuckDB."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.dev.own_pipeline import LocalLayout, schema_steps, write_project
from homelab.errors import HomelabError
from homelab.host import check
from homelab.model import Inventory, Pipeline, SchemaVersion, ServiceContext
from homelab.pipelines.container_steps import Limits, profiles_yml
from homelab.pipelines.exclusion_view import ExclusionView
from homelab.pipelines.pipeline_metrics import labelled
from homelab.pipelines.schema_step import SchemaVersions
from homelab.progress import SilentProgress
from homelab.services.postgres import contents
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration import pg
from tests.scripts import script
from tests.support import FixedSecretStore, LocalHost
from tests.unit.test_pipelines import inventory

from contract import EXIT  # isort: skip

pytestmark = [
    pytest.mark.skipif(pg.archive() is None, reason="PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test"),
    pytest.mark.timeout(300),
]


@dataclass(frozen=True, slots=True)
class Prices:
    """The pipeline `prices` of a user's folder, and the server with its roles and schema."""

    server: pg.Server
    python: Path
    pipeline: Pipeline
    layout: LocalLayout
    context: ServiceContext
    psql: str

    def apply_schema(self, pipeline: Pipeline | None = None) -> list[str]:
        """Apply schema.sql as a deploy does; return the reasons."""
        steps = list(schema_steps(replace(self.layout, pipeline=pipeline or self.pipeline)))
        host, done = LocalHost(), []
        for step in steps:
            found = [change.pending.reason for change in pending_changes(host, [step])]
            if found:
                step.apply(host)
            done += found
        assert pending_changes(host, steps) == []
        return done

    def fetch(self, expect: int = 0) -> str:
        """Run the script; return its outputs."""
        script = self.pipeline.folder / self.pipeline.scripts["fetch"]
        return self._run(expect, str(self.python), str(script))

    def build(self, expect: int = 0) -> dict[str, Any]:
        """Build, test and publish; return the report."""
        report: dict[str, Any] = json.loads(self._run(expect, *self.build_words).splitlines()[-1])
        return report

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last build, as a container with node_exporter has them."""
        text = LocalHost().run(labelled("prices", f"cat {self.layout.data}/metrics.prom")).text
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines())}

    @property
    def build_words(self) -> list[str]:
        """The command of a build."""
        folders = ("--project", self.layout.project, "--profiles", self.layout.root, "--data", self.layout.data)
        return [str(self.python), script("build_project.py"), *folders, "--profile", "prices", "--exclusions"]

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query of the published file."""
        output = self._run(0, str(self.python), script("query.py"), "--database", self.layout.published, sql)
        rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
        return rows

    def set_variables(self, **variables: object) -> None:
        """Add variables of `environment` in the manifest."""
        with Path(self.layout.environment).open("a") as file:
            file.writelines(f"{name}={shlex.quote(str(value))}\n" for name, value in variables.items())

    def model(self, text: str) -> None:
        """Replace the mart's model."""
        (self.pipeline.folder / "dbt" / "models" / "prices_daily.sql").write_text(text)

    def connect(self, role: str) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as a role of the pipeline."""
        return self.server.connect("project_data", role, f"secret-of-postgres-{role}")

    def _run(self, expect: int, *words: str) -> str:
        done = subprocess.run(
            ["sh", "-c", self.layout.run(shlex.join(words))], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stderr + done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[pg.Server]:
    with pg.server() as running:
        yield running


@pytest.fixture
def prices(
    request: pytest.FixtureRequest, server: pg.Server, analytics_python: Path, extensions: Path, tmp_path: Path
) -> Iterator[Prices]:
    """The example for CSV files, or for another origin as the parameter."""
    new_pipeline(tmp_path, "prices", getattr(request, "param", "csv"))
    yield create_prices(server, analytics_python, extensions, tmp_path, inventory(tmp_path, "prices"))
    with server.connect("project_data") as connection:
        connection.execute("drop schema prices cascade")


def create_prices(
    server: pg.Server, python: Path, extensions: Path, folder: Path, wanted: Inventory, **more: str
) -> Prices:
    """Return the pipeline of an inventory on a server, with its roles and its files; `more` are variables."""
    pipeline = wanted.pipeline("prices")
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with("postgres"), secret_store=FixedSecretStore(), host_keys={}
    )
    superuser = [f"{key}={value}" for key, value in server.environment("postgres").items() if key != "PGDATABASE"]
    psql = shlex.join(["env", *superuser, server.program("psql")])
    converge(LocalHost(), list(contents(context, psql)), SilentProgress())
    assert pending_changes(LocalHost(), list(contents(context, psql))) == []
    container = folder / "container"
    (container / "data").mkdir(parents=True)
    layout = LocalLayout(pipeline, container)
    variables = {
        **server.environment("project_data", "prices", "secret-of-postgres-prices"),
        "PIPELINE": "prices",
        "PGOPTIONS": "-csearch_path=prices",
        "DBT_PGUSER": "prices_dbt",
        "DBT_PGPASSWORD": "secret-of-postgres-prices_dbt",
        "PATH": f"{server.home}/bin:{python.parent}:{os.environ['PATH']}",
        **more,
    }
    Path(layout.environment).write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items()))
    (container / "profiles.yml").write_bytes(profiles_yml(layout, Limits(), str(extensions)))
    return Prices(server, python, pipeline, layout, context, psql)


def test_new_pipeline_is_fetched_built_and_queried(prices: Prices) -> None:
    assert prices.apply_schema() == ["not applied: version 1 of schema.sql", NO_VIEW]
    for _ in range(2):  # a repetition stores nothing twice
        assert "5 readings" in prices.fetch()
        assert prices.build()["status"] == "success"
        rows = prices.query("select item, day, readings, average from prices_daily order by all")
        assert rows == [
            {"item": "electricity", "day": "2026-01-01", "readings": 2, "average": 26.0},
            {"item": "electricity", "day": "2026-01-02", "readings": 1, "average": 19.0},
            {"item": "gas", "day": "2026-01-01", "readings": 1, "average": 9.25},
            {"item": "gas", "day": "2026-01-02", "readings": 1, "average": 9.75},
        ]


@contextmanager
def serving(answer: bytes) -> Iterator[str]:
    """Run an HTTP server with one answer; yield its URL."""

    class Replay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


NO_VIEW = "is missing, or its table has other columns"
AVERAGES = "select item, day, readings, average from prices_daily order by all"


@pytest.mark.parametrize("prices", ["api"], indirect=True)
def test_example_that_reads_an_api_is_fetched_and_built(prices: Prices) -> None:
    prices.apply_schema()
    with serving((prices.pipeline.folder / "tests" / "answer.json").read_bytes()) as url:
        prices.set_variables(API_URL=url, ZONE="DE-LU", NO_PROXY="127.0.0.1")
        for _ in range(2):
            assert "3 readings" in prices.fetch()
    prices.build()
    assert prices.query(AVERAGES) == [
        {"item": "DE-LU", "day": "2025-12-31", "readings": 1, "average": 41.5},
        {"item": "DE-LU", "day": "2026-01-01", "readings": 2, "average": 41.75},
    ]
    with serving(b"<html>") as url:
        prices.set_variables(API_URL=url)
        assert "the answer has another format" in prices.fetch(expect=EXIT.bad_input)


@pytest.mark.parametrize("prices", ["postgres"], indirect=True)
def test_example_that_copies_from_a_postgresql_is_fetched_and_built(prices: Prices) -> None:
    prices.apply_schema()
    server = prices.server
    with server.database("shop"), server.connect("shop") as source:
        source.execute("create schema shop; create table shop.readings (item text, measured_at timestamptz, value int)")
        source.execute("insert into shop.readings values ('gas', '2026-01-01 12:00+00', 9)")
        address = f"host={server.host} port={server.port} dbname=shop user=postgres"
        prices.set_variables(SOURCE=address, SOURCE_PASSWORD=server.password)
        assert "1 readings" in prices.fetch()
        prices.build()
        source.execute("insert into shop.readings values ('gas', '2026-01-02 12:00+00', 10)")
        assert "2 readings" in prices.fetch()  # the newest one again
        prices.build()
        assert prices.query(AVERAGES) == [
            {"item": "gas", "day": "2026-01-01", "readings": 1, "average": 9.0},
            {"item": "gas", "day": "2026-01-02", "readings": 1, "average": 10.0},
        ]
        source.execute("drop table shop.readings")
        assert 'relation "shop.readings" does not exist' in prices.fetch(expect=EXIT.bad_input)
        prices.set_variables(SOURCE_PASSWORD="wrong")
        assert "password authentication failed" in prices.fetch(expect=EXIT.failed)


def test_roles_of_a_removed_pipeline_cannot_log_in_and_their_tables_stay(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    without, superuser = replace(prices.context.inventory, pipelines=()), prices.psql
    steps = list(contents(replace(prices.context, inventory=without), superuser))
    found = [change.pending.reason for change in pending_changes(LocalHost(), steps)]
    assert found == ["no longer in the inventory, their data stay: analytics, dbt, prices, prices_dbt"]
    with prices.connect("prices") as open_before:
        converge(LocalHost(), steps, SilentProgress())
        with pytest.raises(psycopg.OperationalError):
            open_before.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        prices.connect("prices")
    converge(LocalHost(), list(contents(prices.context, superuser)), SilentProgress())
    with prices.connect("prices_dbt") as connection:
        assert connection.execute("select count(*) from prices.readings").fetchone() == (5,)


def test_documentation_of_the_project_is_one_page(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    folders = ("--project", prices.layout.project, "--profiles", prices.layout.root, "--data", prices.layout.data)

    def document() -> Path:
        output = prices._run(0, str(prices.python), script("dbt_docs.py"), *folders, "--profile", "prices")
        return Path(output.splitlines()[-1])

    column = '"name": "average", "type": "{}"'
    model = (prices.pipeline.folder / "dbt" / "models" / "prices_daily.sql").read_text()
    prices.model(model.replace("avg(value) as", "avg(value)::varchar as"))
    prices.build()
    assert column.format("VARCHAR") in document().read_text()
    prices.model(model)
    # The types are those of the published file, which the next build replaces.
    assert column.format("VARCHAR") in document().read_text()
    prices.build()
    page = document().read_text()
    assert column.format("DOUBLE") in page
    assert "Readings per item and day (UTC). One row per item and day." in page
    written = document().stat().st_mtime_ns
    assert document().stat().st_mtime_ns == written


def test_warehouse_that_has_grown_is_compacted(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    prices.build()
    warehouse = Path(prices.layout.data) / "warehouse.duckdb"
    # A table at the end of the file, so that DuckDB cannot truncate it.
    rows = "as select random() as n from range"
    statements = f"create table big {rows}(2000000); checkpoint; create table last {rows}(200000); checkpoint"
    statements += "; drop table big; checkpoint"
    code = f"import duckdb; duckdb.connect({str(warehouse)!r}).execute({statements!r})"
    subprocess.run([str(prices.python), "-c", code], check=True)
    grown = warehouse.stat().st_size
    prices.build()
    assert warehouse.stat().st_size < grown / 3
    assert len(prices.query("from prices_daily")) == 4


def test_failed_build_leaves_the_published_file(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    prices.build()
    published = os.readlink(prices.layout.published)
    prices.model("select no_column as item from {{ source('prices', 'readings') }}")
    report = prices.build(expect=EXIT.build_failed)
    assert "no_column" in report["problems"][0]["message"]
    prices.model("select null as item, null as day, null as average from {{ source('prices', 'readings') }}")
    assert {each["status"] for each in prices.build(expect=EXIT.build_failed)["problems"]} == {"fail"}
    assert os.readlink(prices.layout.published) == published
    assert len(prices.query("from prices_daily")) == 4


def test_each_build_writes_its_metrics(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    prices.build()
    label = '{pipeline="prices",table="%s"}'
    found = prices.metrics()
    assert found["homelab_pipeline_last_build_success" + label % ""] == 1
    assert found["homelab_pipeline_rows" + label % "prices_daily"] == 4
    assert found["homelab_pipeline_published_bytes" + label % ""] == os.stat(prices.layout.published).st_size
    published = found["homelab_pipeline_published_timestamp_seconds" + label % ""]
    assert abs(published - os.stat(prices.layout.published).st_mtime) < 1
    prices.model("select no_column as item from {{ source('prices', 'readings') }}")
    prices.build(expect=EXIT.build_failed)
    assert prices.metrics()["homelab_pipeline_last_build_success" + label % ""] == 0
    assert prices.metrics()["homelab_pipeline_published_timestamp_seconds" + label % ""] == published
    (words,) = [name for name in prices.metrics() if "last_error_info" in name]
    assert words.startswith('homelab_pipeline_last_error_info{pipeline="prices",message="model prices_daily: ')
    assert "no_column" in words


def test_model_with_a_wrong_column_is_found_before_it_is_built(prices: Prices) -> None:
    command = prices.layout.run(shlex.join([*prices.build_words, "--check"]))
    assert LocalHost().run(command).status != 0, "the table does not exist yet"
    prices.apply_schema()
    done = LocalHost().run(command)
    assert done.ok, done.text
    prices.model("select no_column as item from {{ source('prices', 'readings') }}")
    with pytest.raises(HomelabError, match="no_column"):
        check(LocalHost(), command, "build without rows")
    assert not list(Path(prices.layout.data).glob("*.duckdb"))


def test_row_that_cannot_be_read_fails_the_fetch_with_its_line(prices: Prices) -> None:
    prices.apply_schema()
    (prices.pipeline.folder / "scripts" / "prices.csv").write_text("item,measured_at,value\nx,2026-01-01,1\n")
    assert "error: prices.csv, line 2: 2026-01-01 has no offset from UTC" in prices.fetch(expect=EXIT.bad_input)


def test_next_version_of_the_schema_is_applied_on_top_of_the_rows(prices: Prices) -> None:
    first = prices.pipeline.schema_versions[0]
    prices.apply_schema()
    prices.fetch()
    second = SchemaVersion(2, "alter table readings add column unit text")
    grown = replace(prices.pipeline, schema_versions=(first, second))
    assert prices.apply_schema(grown) == ["not applied: version 2 of schema.sql", NO_VIEW]
    with prices.connect("prices_dbt") as connection:
        assert connection.execute("select count(*), count(unit) from prices.readings").fetchone() == (5, 0)
    broken = replace(grown, schema_versions=(first, second, SchemaVersion(3, "create table a (); select no_column")))
    with pytest.raises(HomelabError, match="Cannot apply version 3 of schema") as caught:
        prices.apply_schema(broken)
    assert 'column "no_column" does not exist' in caught.value.details
    with prices.connect("prices") as connection:
        assert connection.execute("select to_regclass('prices.a')").fetchone() == (None,)
    assert prices.apply_schema(grown) == []


def test_role_of_dbt_sees_when_the_tables_are_made(prices: Prices) -> None:
    """With the ingestion on a container of its own, the container of the builds waits for this."""

    def are_made(pipeline: Pipeline) -> bool:
        steps = schema_steps(replace(prices.layout, pipeline=pipeline))
        conditions = [each.is_current for each in steps if isinstance(each, SchemaVersions | ExclusionView)]
        assert len(conditions) == 2
        with prices.connect("prices_dbt") as connection:
            return connection.execute(f"select {' and '.join(conditions)}".encode()).fetchall() == [(True,)]

    assert not are_made(prices.pipeline)
    prices.apply_schema()
    assert are_made(prices.pipeline)
    versions = (*prices.pipeline.schema_versions, SchemaVersion(2, "alter table readings add note text"))
    changed = replace(prices.pipeline, schema_versions=versions)
    assert not are_made(changed)
    prices.apply_schema(changed)
    assert are_made(changed)


def test_roles_reach_the_tables_of_their_pipeline_only(prices: Prices) -> None:
    prices.apply_schema()
    with prices.connect("prices_dbt") as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("insert into prices.readings values ('x', now(), 1)")
    for role in ("prices", "prices_dbt"):
        with prices.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from raw.weather_observations")
        with prices.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("create table public.x ()")
    for role in ("analytics", "dbt"):
        with prices.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from prices.readings")


READS_WEATHER = """
select prices.item, prices.readings, weather.low
from {{ ref('prices_daily') }} as prices, {{ source('weather', 'days') }} as weather
"""


def test_broken_publication_holds_back_only_the_models_that_read_it(
    prices: Prices, extensions: Path, tmp_path: Path
) -> None:
    weather = tmp_path / "weather"
    (weather / "models").mkdir(parents=True)
    (weather / "dbt_project.yml").write_text("name: weather\n")
    (weather / "models" / "days.sql").write_text("select 1 as low")
    reading = replace(prices.pipeline, reads={"weather": weather})
    layout = LocalLayout(reading, tmp_path / "dev" / "pipelines" / "prices")
    prices = replace(prices, pipeline=reading, layout=layout, context=prices.context)
    (layout.folder / "data").mkdir(parents=True)
    published = Path(layout.published_by("weather"))
    published.parent.mkdir()
    (tmp_path / "container" / "pipeline.env").rename(layout.environment)
    prices.set_variables(READS_weather=published)
    (layout.folder / "profiles.yml").write_bytes(profiles_yml(layout, Limits(), str(extensions)))
    model = reading.folder / "dbt" / "models" / "prices_weather.sql"
    model.write_text(READS_WEATHER)
    write_project(layout)

    def publish(sql: str) -> None:
        published.unlink(missing_ok=True)
        words = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"
        subprocess.run([str(prices.python), "-c", words, str(published), sql], check=True)

    def problem() -> str:
        report = prices.build(expect=EXIT.partial)
        assert report["status"] == "partial"
        (found,) = [each["message"] for each in report["problems"] if each["node"] == "pipeline weather"]
        return str(found)

    prices.apply_schema()
    prices.fetch()
    assert problem() == "it has published nothing yet: run it first"
    assert prices.query("select sum(readings) as readings from prices_daily") == [{"readings": 5}]
    publish("create table days as select 3 as low")
    assert prices.build()["status"] == "success"
    assert prices.query("select distinct low from prices_weather") == [{"low": 3}]

    with prices.connect("prices") as connection:
        connection.execute("insert into prices.readings values ('gas', '2026-01-03', 1)")
    publish("create table days as select 4 as lowest")
    assert "a model or a test that reads it has failed: model.prices.prices_weather: " in problem()
    assert prices.query("select sum(readings) as readings from prices_daily") == [{"readings": 6}]
    assert prices.query("select distinct low from prices_weather") == [{"low": 3}]
    published.write_bytes(b"no database" * 1000)
    assert problem().startswith("its published file cannot be read: ")
    published.unlink()
    os.mkfifo(published)
    assert problem() == "its published file is no file: run it again"
    assert prices.query("select distinct low from prices_weather") == [{"low": 3}]
    publish("create table days as select 5 as low")
    prices.build()
    assert prices.query("select distinct low from prices_weather") == [{"low": 5}]


INCREMENTAL = """{{ config(materialized='incremental', unique_key=['item', 'day']) }}
select item, (measured_at at time zone 'UTC')::date as day, sum(value) as average
from {{ source('prices', 'readings') }}
{% if is_incremental() %}where (measured_at at time zone 'UTC')::date >= (select max(day) from {{ this }}){% endif %}
group by all
"""


def test_excluded_rows_leave_an_incremental_mart_and_return(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    prices.model(INCREMENTAL)
    prices.build()

    def days() -> list[tuple[str, str]]:
        return [(row["item"], row["day"]) for row in prices.query("from prices_daily order by all")]

    def exclusions(*words: str, expect: int = 0) -> Any:
        output = prices._run(expect, str(prices.python), script("row_exclusions.py"), *words)
        return output if expect else json.loads(output.splitlines()[-1])

    everything = days()
    table = ("--table", "readings", "--time", "measured_at", "--from", "2026-01-01", "--to", "2026-01-02")
    assert "no row with item=oil" in exclusions("count", *table, "--key=item=oil", expect=EXIT.bad_input)
    covered = exclusions("add", *table, "--key=item=gas", "--reason", "wrong", "--by", "me")
    assert (covered["rows"], covered["id"]) == (1, 1)
    prices.build()
    assert days() == [each for each in everything if each != ("gas", "2026-01-01")]
    # The exclusion covers rows that arrive later, and no other item.
    with prices.connect("prices") as connection:
        connection.execute("insert into readings values ('gas', '2026-01-01 18:00+00', 1), ('oil', '2026-01-03', 1)")
    prices.build()
    assert days() == [*(each for each in everything if each != ("gas", "2026-01-01")), ("oil", "2026-01-03")]
    assert exclusions("revoke", "--id", "1", "--reason", "right", "--by", "you")["revoked_by"] == "you"
    assert "no exclusion 1" in exclusions("revoke", "--id", "1", "--reason", "x", "--by", "you", expect=EXIT.bad_input)
    prices.build()
    assert days() == sorted([*everything, ("oil", "2026-01-03")])
    assert [each["reason"] for each in exclusions("list")] == ["wrong"]


OBJECT = '{"item": "gas", "measured_at": "2019-01-01T00:00Z", "value": %s}'


def test_values_of_a_file_are_stored_as_they_are_written(prices: Prices) -> None:
    prices.apply_schema()
    with prices.connect("prices") as connection:
        connection.execute(
            "create table exact (item text, at timestamptz, n numeric, note text, more jsonb, primary key (item, at))"
        )
    digits, words = "9" * 5000, [str(prices.python), script("row_backfill.py"), "--table", "exact"]
    words += ["--time", "at", "--key", "item"]
    of_json = {
        "a": ("12345678901234567.89", '"\u2028x\u0085"', '{"n": [12345678901234567.89, 1e400, true], "ü": null}'),
        "b": (digits, '"\\\\N"', digits),
        "c": ("null", "null", '"text"'),
        "d": ("-1E+2", "7.50", "[]"),
    }
    text = "\n".join(
        f'{{"item": "{item}", "at": "2019-01-01T00:00Z", "n": {n}, "note": {note}, "more": {more}}}\r'
        for item, (n, note, more) in of_json.items()
        if item != "c"
    )
    text += '\n{"item": "c", "at": "2019-01-01T00:00Z"}\n\n'
    of_csv = f'item,at,n,note\n\ne,2019-01-01T00:00Z,{digits},{"x" * 200_000}\n\r\nf,2019-01-01T00:00Z,\\N,"a\nb"\n\n'
    for file, count in ((text, 4), (of_csv, 2)):
        command = prices.layout.run(shlex.join(words))
        done = subprocess.run(["sh", "-c", command], input=file.encode(), capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stored"] == count
    with prices.connect("prices") as connection:
        found = connection.execute("select item, n::text, note, more::text from exact order by item").fetchall()
    huge = "1" + "0" * 400
    assert found == [
        ("a", "12345678901234567.89", "\u2028x\u0085", f'{{"n": [12345678901234567.89, {huge}, true], "ü": null}}'),
        ("b", digits, "\\N", digits),
        ("c", None, None, None),
        ("d", "-100", "7.50", "[]"),
        ("e", digits, "x" * 200_000, None),
        ("f", None, "a\nb", None),
    ]


def test_rows_of_a_file_are_stored_once(prices: Prices) -> None:
    prices.apply_schema()

    def backfill(text: str, *words: str, expect: int = 0) -> Any:
        table = ("--table", "readings", "--time", "measured_at", "--key", "item")
        command = [str(prices.python), script("row_backfill.py"), *table, *words]
        done = subprocess.run(
            ["sh", "-c", prices.layout.run(shlex.join(command))],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == expect, done.stderr
        return done.stderr if expect else json.loads(done.stdout)

    rows = "item,measured_at,value\ngas,2019-01-01T00:00Z,1\ngas,2019-01-02T00:00Z,2\n"
    assert backfill(rows) == {"stored": 2, "unchanged": 0, "replaced": 0}
    objects = [
        {"item": "gas", "measured_at": "2019-01-02T00:00Z", "value": 3},
        {"item": "oil", "measured_at": "2019-01-02T00:00Z", "value": 4},
    ]
    lines = "\n".join(map(json.dumps, objects))
    assert backfill(lines) == {"stored": 1, "unchanged": 1, "replaced": 0}
    assert backfill(lines, "--replace") == {"stored": 0, "unchanged": 0, "replaced": 2}
    with prices.connect("prices") as connection:
        found = connection.execute("select item, value from readings order by measured_at, item").fetchall()
    assert found == [("gas", 1), ("gas", 3), ("oil", 4)]
    for text, error in (
        ("item,measured_at,value\n\ngas,someday,1\n", "line 3, column measured_at: invalid input syntax for type"),
        ("item,measured_at,price\ngas,2019-01-01T00:00Z,1\n", 'column "price" of relation "incoming" does not exist'),
        ("item,value\ngas,1\n", "it has no column measured_at"),
        (rows + rows.splitlines()[1], "it has two rows for gas, 2019-01-01"),
        ("", "the file is empty"),
        ("item,measured_at,value\ngas,2019-01-01T00:00Z\n", "line 2 has 2 values, not 3"),
        (f"{lines}\n5\n", "line 3 is not a JSON object"),
        (f'{lines}\n\n["item"]\n', "line 4 is not a JSON object"),
        ('["item"]\n', "line 1 is not a JSON object"),
        (f"{lines}\n{{", "line 3 is not JSON: Expecting property name"),
        (lines + '\n{"item": ' + "[" * 100_000, "line 3 is nested too deeply"),
        (lines + '\n{"item": ' + "[" * 600 + "]" * 600 + "}", "line 3 is nested too deeply"),
        (OBJECT % "NaN", "line 1 is not JSON: NaN is not a number of JSON"),
        (OBJECT % "-Infinity", "line 1 is not JSON: -Infinity is not a number of JSON"),
        (OBJECT % "1e400", 'line 1, column value: "1e400" is out of range for type double precision'),
        (OBJECT % '"\\\\N"', "line 1, column value: invalid input syntax for type double precision"),
        (OBJECT % r'"\ud800"', "line 1 holds half of a surrogate pair"),
        (OBJECT % r'"\u0000"', "line 1: PostgreSQL text fields cannot contain NUL"),
        (f"{rows}{'x' * 200_000},2019-01-03T00:00Z,y\n", "line 4, column value: invalid input syntax"),
    ):
        assert error in backfill(text, expect=EXIT.bad_input)
