"""The contracts of the pipelines compared with both sides: scripts, SQL and templates, and homelab."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from homelab import pipeline_contract
from homelab.commands.pipeline_status import PipelineStatus
from homelab.model import ObjectStorage
from tests.scripts import PROJECT, ROOT, SCHEMA, SCRIPTS, SHARED_SCRIPTS, script

import contract  # isort: skip
from ingest_settings import UNITS  # isort: skip
from loader import RunSummary  # isort: skip
from run_counters import RunCounters  # isort: skip

CONTRACT = json.loads((SHARED_SCRIPTS / "contract.json").read_text())
WEATHER = json.loads((SCRIPTS / "weather_contract.json").read_text())
TABLES = SCHEMA.read_text()
VARIABLE = re.compile(r"\b(?:OPENWEATHER_|WEATHER_|NATS_|KAFKA_|DBT_PG)[A-Z_]*[A-Z]\b")
SCRIPT = re.compile(r"(?:SCRIPTS\}/|scripts/|weather_words\(layout, \"|\"scripts\" / \"|\.script\(\")(\w+\.py)")


def variables(*files: Path) -> set[str]:
    """Return the pipeline's environment variables that the files name."""
    return {name for file in files for name in VARIABLE.findall(file.read_text())}


def sources(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the source files of a folder."""
    yield from (path for path in sorted(folder.rglob("*")) if path.suffix in suffixes)


def test_both_sides_read_the_same_exit_statuses() -> None:
    assert asdict(contract.EXIT) == asdict(pipeline_contract.EXIT) == CONTRACT["exit_status"]
    assert len(set(CONTRACT["exit_status"].values())) == len(CONTRACT["exit_status"])


def test_object_storage_has_the_variables_that_duckdb_reads() -> None:
    connection = ObjectStorage(
        host="h", port=1, region="r", url_style="path", ca_file="c", bucket="b", access_key="a", secret="s"
    )
    read = {*contract.S3_SECRET.values(), "S3_CA_FILE"}
    assert read == {*connection.variables, "S3_SECRET_ACCESS_KEY"}
    assert contract.S3_SECRET == pipeline_contract.S3_SECRET


def test_run_counters_are_the_columns_of_every_table() -> None:
    counters = WEATHER["run_counters"]
    assert [field.name for field in fields(RunCounters)] == list(counters)
    assert asdict(RunSummary(2, 1).counters) == {**dict.fromkeys(counters, 0), "asked": 2, "stored": 1}
    table = TABLES.split("create table if not exists raw.ingestion_ends (")[1].split(");")[0]
    assert re.findall(r"(\w+) int not null", table) == list(counters)
    mart = (PROJECT / "models" / "marts" / "pipeline_runs.sql").read_text()
    assert [
        mart.count(f"    {raw} as {column},\n" if raw != column else f"    {raw},\n")
        for raw, column in counters.items()
    ] == [1] * len(counters)


def test_status_queries_columns_of_the_mart() -> None:
    tree = ast.parse((SCRIPTS / "pipeline_status.py").read_text())
    (sql,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and "from pipeline_runs" in str(node.value)
    ]
    columns = re.findall(r"\b(?:cities|observations|responses)_\w+", str(sql))
    assert columns
    assert set(columns) <= set(WEATHER["run_counters"].values())


def test_scripts_tables_and_models_accept_the_same_units() -> None:
    listed = ", ".join(f"'{unit}'" for unit in UNITS)
    assert TABLES.count(f"check (units in ({listed}))") == TABLES.count("weather_observations_units check")
    assert f"not in ({listed})" in (PROJECT / "macros" / "units.sql").read_text()
    assert f"values: [{', '.join(UNITS)}]" in (PROJECT / "models" / "landing" / "landing_weather.yml").read_text()


def test_homelab_shows_only_counters_of_the_contract() -> None:
    last_ingest = {**dict.fromkeys(WEATHER["run_counters"], 7), "finished": "2026-01-01T00:00:00+00:00"}
    status = PipelineStatus(None, last_ingest, None, spooled_bytes=0, runs=[], missing=[])
    assert "7 stored" in "\n".join(status.lines())


def test_contract_describes_every_variable_that_the_pipeline_reads() -> None:
    assert variables(*sources(ROOT / "pipelines", ".py", ".sql")) == set(WEATHER["environment"])


def test_homelab_sets_only_variables_of_the_contract() -> None:
    templates = variables(*sources(ROOT / "templates", ".j2"))
    assert "OPENWEATHER_API_KEY" in templates
    assert templates | variables(*sources(ROOT / "homelab", ".py")) <= set(WEATHER["environment"])


def test_every_script_that_homelab_runs_exists() -> None:
    files = (*sources(ROOT / "homelab", ".py"), *sources(ROOT / "pipelines" / "weather", ".yaml"))
    # The scripts of a new pipeline are the user's.
    named = {n for path in files if path.stem != "pipeline_new" for n in SCRIPT.findall(path.read_text())}
    assert {"ingest_weather.py", "dbt_build.py", "backfill_api.py", "report.py"} <= named
    assert all(map(script, named))
