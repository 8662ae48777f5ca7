"""A pipeline that `homelab pipeline new` writes, on a real PostgreSQL 16 with the roles of a deploy, dbt and DuckDB."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.dev.own_pipeline import LocalLayout
from homelab.errors import HomelabError
from homelab.host import check
from homelab.model import Pipeline, SchemaVersion, ServiceContext
from homelab.pipelines.container_steps import profiles_yml, try_build
from homelab.pipelines.pipeline_metrics import labelled
from homelab.pipelines.schema_step import SchemaVersions
from homelab.progress import SilentProgress
from homelab.services.postgres import contents
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration import pg
from tests.scripts import SCRIPTS
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
        step = SchemaVersions(replace(self.layout, pipeline=pipeline or self.pipeline))
        host = LocalHost()
        done = [change.pending.reason for change in pending_changes(host, [step])]
        if done:
            step.apply(host)
        assert pending_changes(host, [step]) == []
        return done

    def fetch(self, expect: int = 0) -> str:
        """Run the script; return its outputs."""
        script = self.pipeline.folder / self.pipeline.scripts["fetch"]
        return self._run(expect, str(self.python), str(script))

    def build(self, expect: int = 0) -> dict[str, Any]:
        """Build, test and publish; return the report."""
        folders = ("--project", self.layout.project, "--profiles", self.layout.root, "--data", self.layout.data)
        output = self._run(expect, str(self.python), str(SCRIPTS / "build_project.py"), *folders, "--profile", "prices")
        report: dict[str, Any] = json.loads(output.splitlines()[-1])
        return report

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last build, as a container with node_exporter has them."""
        text = LocalHost().run(labelled("prices", f"cat {self.layout.data}/metrics.prom")).text
        return {name: float(value) for name, value in (line.split() for line in text.splitlines())}

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query of the published file."""
        output = self._run(0, str(self.python), str(SCRIPTS / "query.py"), "--database", self.layout.published, sql)
        rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
        return rows

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
def prices(server: pg.Server, analytics_python: Path, extensions: Path, tmp_path: Path) -> Iterator[Prices]:
    new_pipeline(tmp_path, "prices")
    wanted = inventory(tmp_path, "prices")
    (pipeline,) = wanted.pipelines
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with("postgres"), secret_store=FixedSecretStore(), host_keys={}
    )
    superuser = [f"{key}={value}" for key, value in server.environment("postgres").items() if key != "PGDATABASE"]
    psql = shlex.join(["env", *superuser, server.program("psql")])
    converge(LocalHost(), list(contents(context, psql)), SilentProgress())
    assert pending_changes(LocalHost(), list(contents(context, psql))) == []
    folder = tmp_path / "container"
    (folder / "data").mkdir(parents=True)
    layout = LocalLayout(pipeline, folder)
    variables = {
        **server.environment("project_data", "prices", "secret-of-postgres-prices"),
        "PGOPTIONS": "-csearch_path=prices",
        "DBT_PGUSER": "prices_dbt",
        "DBT_PGPASSWORD": "secret-of-postgres-prices_dbt",
        "PATH": f"{server.home}/bin:{analytics_python.parent}:{os.environ['PATH']}",
    }
    Path(layout.environment).write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items()))
    (folder / "profiles.yml").write_bytes(profiles_yml(layout, str(extensions)))
    yield Prices(server, analytics_python, pipeline, layout, context, psql)
    with server.connect("project_data") as connection:
        connection.execute("drop schema prices cascade")


def test_new_pipeline_is_fetched_built_and_queried(prices: Prices) -> None:
    assert prices.apply_schema() == ["not applied: version 1 of schema.sql"]
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


def test_roles_of_a_removed_pipeline_cannot_log_in_and_their_tables_stay(prices: Prices) -> None:
    prices.apply_schema()
    prices.fetch()
    without, superuser = replace(prices.context.inventory, pipelines=()), prices.psql
    steps = list(contents(replace(prices.context, inventory=without), superuser))
    found = [change.pending.reason for change in pending_changes(LocalHost(), steps)]
    assert found == ["no longer in the inventory, their data stay: prices, prices_dbt"]
    with prices.connect("prices") as open_before:
        converge(LocalHost(), steps, SilentProgress())
        with pytest.raises(psycopg.OperationalError):
            open_before.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        prices.connect("prices")
    converge(LocalHost(), list(contents(prices.context, superuser)), SilentProgress())
    with prices.connect("prices_dbt") as connection:
        assert connection.execute("select count(*) from prices.readings").fetchone() == (5,)


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


def test_model_with_a_wrong_column_is_found_before_it_is_built(prices: Prices) -> None:
    command = prices.layout.run(try_build(prices.layout, prices.layout.project))
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
    assert prices.apply_schema(grown) == ["not applied: version 2 of schema.sql"]
    with prices.connect("prices_dbt") as connection:
        assert connection.execute("select count(*), count(unit) from prices.readings").fetchone() == (5, 0)
    broken = replace(grown, schema_versions=(first, second, SchemaVersion(3, "create table a (); select no_column")))
    with pytest.raises(HomelabError, match="Cannot apply version 3 of schema") as caught:
        prices.apply_schema(broken)
    assert 'column "no_column" does not exist' in caught.value.details
    with prices.connect("prices") as connection:
        assert connection.execute("select to_regclass('prices.a')").fetchone() == (None,)
    assert prices.apply_schema(grown) == []


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
