"""A pipeline that reads the published tables of another one: refusals, sources, and access to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Inventory
from homelab.pipelines.container_steps import Limits, profiles_yml
from homelab.pipelines.layout import Layout
from homelab.pipelines.published_tables import project_files, published_tables
from homelab.steps import Directory, Group, Tree
from tests.unit.test_pipelines import file, inventory, problems, steps

ROOT = "/opt/analytics-platform"


def pipeline(folder: Path, name: str, reads: str = "", dbt: bool = True) -> Path:
    """Write a pipeline with this list of names in `reads`; return its folder."""
    new_pipeline(folder, name)
    path = folder / "pipelines" / name
    (path / "pipeline.yaml").write_text(f"commands: {{fetch: scripts/fetch.py}}\nreads: [{reads}]\n")
    if not dbt:
        (path / "dbt" / "dbt_project.yml").unlink()
    return path


def reading_weather(folder: Path) -> Inventory:
    pipeline(folder, "prices", "weather")
    return inventory(folder, "prices")


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        ("wether", "the inventory has no pipeline `wether`; did you mean `weather`?"),
        ("prices", "a pipeline does not read itself: its models use `ref`"),
        ("power", "`power` publishes nothing: it has no dbt/dbt_project.yml"),
        ("weather, 5", "reads[1]: must be"),
    ],
)
def test_pipeline_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, reads: str, error: str) -> None:
    pipeline(tmp_path, "prices", reads)
    pipeline(tmp_path, "power", dbt=False)
    (found,) = problems(tmp_path, "prices", "power")
    assert found.startswith("pipelines/prices/pipeline.yaml:2: reads[")
    assert error in found


def test_pipeline_without_models_reads_no_other_one(tmp_path: Path) -> None:
    pipeline(tmp_path, "prices", "weather", dbt=False)
    assert problems(tmp_path, "prices") == [
        "pipelines/prices/pipeline.yaml:2: reads[0]: needs models that read it, in dbt/"
    ]


def test_cycle_is_refused_in_each_manifest_of_it(tmp_path: Path) -> None:
    pipeline(tmp_path, "prices", "weather, power")
    pipeline(tmp_path, "power", "grid")
    pipeline(tmp_path, "grid", "prices")
    pipeline(tmp_path, "outside", "prices")
    assert sorted(problems(tmp_path, "prices", "power", "grid", "outside")) == [
        "pipelines/grid/pipeline.yaml:2: reads[0]: is a cycle: grid reads prices reads power reads grid",
        "pipelines/power/pipeline.yaml:2: reads[0]: is a cycle: power reads grid reads prices reads power",
        "pipelines/prices/pipeline.yaml:2: reads[1]: is a cycle: prices reads power reads grid reads prices",
    ]


def test_error_in_a_manifest_that_is_read_is_one_problem(tmp_path: Path) -> None:
    pipeline(tmp_path, "prices", "power")
    (pipeline(tmp_path, "power") / "pipeline.yaml").write_text("comands: {}\n")
    (found,) = problems(tmp_path, "prices", "power")
    assert "comands: unknown key" in found


def test_sources_have_the_marts_of_the_weather_and_their_columns(tmp_path: Path) -> None:
    prices = reading_weather(tmp_path).pipeline("prices")
    files = project_files(prices.folder / "dbt", prices.reads)
    (source,) = yaml.safe_load(files["models/published_sources.yml"])["sources"]
    assert (source["name"], source["database"], source["schema"]) == ("weather", "published_weather", "main")
    tables = {table["name"]: [column["name"] for column in table["columns"]] for table in source["tables"]}
    assert {"weather_daily", "weather_hourly", "cities", "weather_conditions", "weather_daily_history"} <= set(tables)
    assert {"stg_weather", "landing_weather", "changed_days"}.isdisjoint(tables)  # in other schemas
    assert tables["weather_daily"][:2] == ["city", "observation_date"]


def test_only_tables_that_dbt_builds_in_the_main_schema_are_published(tmp_path: Path) -> None:
    models = tmp_path / "sql" / "deep"
    models.mkdir(parents=True)
    (tmp_path / "dbt_project.yml").write_text(
        "name: shop\nmodel-paths: [sql]\nmodels: {shop: {deep: {+schema: staging}, +materialized: table}}\n"
    )
    (tmp_path / "sql" / "mart.sql").write_text("{{ config(\n  alias='sales',\n) }}\nselect 1")
    (tmp_path / "sql" / "inner.sql").write_text("{{ config(materialized='ephemeral') }} select 1")
    (tmp_path / "sql" / "old.sql").write_text("{{ config(enabled=false) }} select 1")
    (models / "stage.sql").write_text("select 1")
    (models / "shown.sql").write_text("{{ config(schema='main') }} select 1")
    (models / "shown.yml").write_text(
        "models: [{name: shown, description: 'a {{ doc(1) }}', columns: [{name: a, description: b}]}]"
    )
    found = {table.name: (table.description, dict(table.columns)) for table in published_tables(tmp_path)}
    assert found == {"sales": ("", {}), "shown": ("", {"a": "b"})}


def test_project_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: [")
    with pytest.raises(InputError, match=r"dbt_project\.yml: not valid YAML"):
        published_tables(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("models/a.yml", "models: [5]", "models/a.yml: `models` must be a list of mappings"),
        ("models/a.yml", "models: {a: 1}", "models/a.yml: `models` must be a list of mappings"),
        ("models/a.yml", "models: [{name: a, columns: [5]}]", "models/a.yml: `columns` must be a list of mappings"),
        ("models/a.yml", "models: [{name: a, config: 5}]", "models/a.yml: `config` must be a mapping"),
        ("models/a.yml", "models: !!int foo", "models/a.yml: not valid YAML"),
        ("models/a.yml", "day: 2026-13-45", "models/a.yml: not valid YAML"),
        ("models/a.yml", "a: \udcff", "models/a.yml: not valid YAML"),
        ("dbt_project.yml", "model-paths: 5", "dbt_project.yml: `model-paths` must be a list of paths"),
        ("dbt_project.yml", "model-paths: [5]", "dbt_project.yml: `model-paths` must be a list of paths"),
        ("dbt_project.yml", "models: [5]", "dbt_project.yml: `models` must be a mapping"),
        ("models/a.sql/b.txt", "", ""),
        ("models/z.yml/b.yml", "models: [{name: a}]", ""),
        ("dbt_project.yml", "models: {5: {6: 7}, 8: 9}", ""),
    ],
)
def test_yaml_of_another_form_is_named(tmp_path: Path, file: str, text: str, error: str) -> None:
    for name, content in {"dbt_project.yml": "name: p", "models/a.sql": "select 1", file: text}.items():
        path = tmp_path / name
        if file.startswith(f"{name}/"):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode(errors="surrogateescape"))
    if error:
        with pytest.raises(InputError) as caught:
            published_tables(tmp_path)
        assert error in caught.value.brief
    else:
        assert [table.name for table in published_tables(tmp_path)] in (["a"], [])


def test_reader_can_open_the_published_file_and_not_list_the_folder(tmp_path: Path) -> None:
    found = steps(reading_weather(tmp_path), "analytics")
    (group,) = [step for step in found if isinstance(step, Group)]
    assert (group.name, group.members) == ("readers-weather", ["pipeline-prices"])
    folders = {step.path: (step.owner, step.group, step.mode) for step in found if isinstance(step, Directory)}
    data = f"{ROOT}/pipelines/weather/data"
    assert folders[data] == ("pipeline-weather", "readers-weather", 0o710)
    assert folders[f"{ROOT}/pipelines/prices/data"] == ("pipeline-prices", "pipeline-prices", 0o750)
    titles = [step.title for step in found]
    assert titles.index("user pipeline-prices") < titles.index(group.title) < titles.index(f"directory {data}")
    assert f"READS_weather={data}/published.duckdb" in file(found, f"{ROOT}/pipelines/prices/pipeline.env")
    (project,) = [step for step in found if isinstance(step, Tree) and step.path == f"{ROOT}/pipelines/prices/dbt"]
    assert "models/published_sources.yml" in project.files


def test_pipeline_that_no_other_one_reads_keeps_its_folder_to_itself(tmp_path: Path) -> None:
    pipeline(tmp_path, "prices")
    found = steps(inventory(tmp_path, "prices"), "analytics")
    assert not [step for step in found if isinstance(step, Group)]
    folders = {step.path: (step.group, step.mode) for step in found if isinstance(step, Directory)}
    assert folders[f"{ROOT}/pipelines/weather/data"] == ("pipeline-weather", 0o750)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Result("", 2, b""), "does not exist"),
        (Result("", 0, b"readers-weather:x:990:"), "members [] → ['a', 'b']"),
        (Result("", 0, b"readers-weather:x:990:a,b,c"), "members ['a', 'b', 'c'] → ['a', 'b']"),
        (Result("", 0, b"readers-weather:x:990:b,a"), ""),
    ],
)
def test_group_has_exactly_its_members(answer: Result, reason: str) -> None:
    pending = Group("readers-weather", ["b", "a"]).check([answer])
    assert (pending.reason if pending else "") == reason


def test_profile_attaches_the_file_read_only(tmp_path: Path) -> None:
    prices = reading_weather(tmp_path).pipeline("prices")
    profile = yaml.safe_load(profiles_yml(Layout(prices), Limits()))["prices"]["outputs"]["warehouse"]
    assert profile["attach"][1] == {
        "path": "{{ env_var('READS_weather') }}",
        "alias": "published_weather",
        "read_only": "{{ (env_var('READS_weather') != ':memory:') | as_bool }}",
    }
