"""Dashboards as code: the files of a pipeline, their errors, and the step that applies them to Superset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.inventory.dashboards_folder import with_dashboards
from homelab.inventory.errors import Problems
from homelab.model import Pipeline
from homelab.model.dashboards import DashboardAsset, canonical, connection_uuid
from homelab.paths import bundled_path
from homelab.pipelines.dashboard_files import file_name, file_text, to_import
from homelab.services.superset_dashboards import Dashboards, SupersetAccess
from homelab.steps.queries import Query
from tests.support import NoHost

DATASET, CHART, DASHBOARD = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
FILES: Mapping[str, Mapping[str, Any]] = {
    "datasets/prices_daily.yaml": {
        "table_name": "prices_daily",
        "uuid": DATASET,
        "columns": [{"column_name": "day", "type": "DATE", "is_dttm": True}],
    },
    "charts/average.yaml": {
        "slice_name": "Average",
        "viz_type": "table",
        "dataset_uuid": DATASET,
        "params": {"all_columns": ["day"]},
        "uuid": CHART,
    },
    "dashboards/prices.yaml": {
        "dashboard_title": "Prices",
        "uuid": DASHBOARD,
        "position": {"CHART-1": {"type": "CHART", "id": "CHART-1", "meta": {"uuid": CHART, "width": 6, "height": 50}}},
    },
}


def write(folder: Path, files: Mapping[str, Any] = FILES) -> Pipeline:
    """Write a pipeline with these dashboards; return it as the manifest describes it."""
    models = folder / "dbt" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "dbt" / "dbt_project.yml").write_text("name: prices\n")
    (models / "prices_daily.sql").write_text("select 1")
    for name, content in files.items():
        path = folder / "dashboards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return Pipeline(name="prices", folder=folder, description="", scripts={}, has_dbt=True, has_dags=False)


def read(*pipelines: Pipeline) -> tuple[Sequence[Pipeline], list[str]]:
    problems = Problems()
    found = with_dashboards(pipelines, problems)
    return found, [str(each).partition("/dashboards/")[2] for each in problems.found]


def test_files_are_read_in_the_order_of_their_references(tmp_path: Path) -> None:
    (found,), problems = read(write(tmp_path))
    assert problems == []
    assert [str(each) for each in found.dashboards] == ["dataset prices_daily", "chart Average", "dashboard Prices"]


def test_superset_export_as_it_is_can_be_used(tmp_path: Path) -> None:
    exported = {
        "metadata.yaml": {"version": "1.0.0", "type": "Dashboard"},
        "databases/prices.yaml": {"database_name": "prices"},
        **{name: {**content, "version": "1.0.0"} for name, content in FILES.items()},
    }
    exported["datasets/prices_daily.yaml"]["database_uuid"] = connection_uuid("prices")
    (found,), problems = read(write(tmp_path, exported))
    assert problems == []
    assert [each.digest for each in found.dashboards] == [
        each.digest for each in read(write(tmp_path / "own"))[0][0].dashboards
    ]


def changed(name: str, **values: Any) -> dict[str, Any]:
    content = {**FILES[name], **values}
    return {name: {key: value for key, value in content.items() if value is not ...}}


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"charts/average.yaml": "slice_name: [Average\n"}, "charts/average.yaml:2: not valid YAML"),
        ({"charts/average.yaml": ""}, "charts/average.yaml:1: must be a mapping, as Superset exports a chart"),
        (changed("charts/average.yaml", uuid=...), "charts/average.yaml:1: uuid is missing: add one, such as `uuid: "),
        (changed("charts/average.yaml", uuid="1"), "charts/average.yaml:7: uuid: must be a uuid in lower-case letters"),
        (changed("charts/average.yaml", uuid=DATASET), "is already used in "),
        (changed("charts/average.yaml", viz_type=...), "charts/average.yaml:1: viz_type is missing"),
        (
            changed("charts/average.yaml", dataset_uuid=DASHBOARD),
            "charts/average.yaml:3: dataset_uuid: no dataset in datasets/ has this uuid",
        ),
        (
            changed("datasets/prices_daily.yaml", table_name="price_daily"),
            "datasets/prices_daily.yaml:1: table_name: the pipeline publishes no table `price_daily`; did you mean "
            "`prices_daily`?",
        ),
        (
            changed("datasets/prices_daily.yaml", database_uuid=CHART),
            f"database_uuid: must be {connection_uuid('prices')}, the connection of prices; omit it",
        ),
        (changed("charts/average.yaml", dataset_uuid=[1]), "charts/average.yaml:3: dataset_uuid: must be text"),
        (changed("charts/average.yaml", dataset_uuid={"a": 1}), "charts/average.yaml:3: dataset_uuid: must be text"),
        (
            changed("dashboards/prices.yaml", metadata={"native_filter_configuration": [{"targets": [5]}]}),
            "dashboards/prices.yaml:1: is not a dashboard as Superset exports it",
        ),
        (changed("datasets/prices_daily.yaml", columns=["day"]), "columns: must be a list of mappings"),
        (
            changed("dashboards/prices.yaml", position={"CHART-1": {"type": "CHART", "meta": {"uuid": DATASET}}}),
            "dashboards/prices.yaml:7: position.CHART-1.meta.uuid: no chart in charts/ has this uuid",
        ),
        (
            changed("dashboards/prices.yaml", position={"CHART-1": {"type": "CHART"}}),
            "dashboards/prices.yaml:1: is not a dashboard as Superset exports it",
        ),
        (
            changed(
                "dashboards/prices.yaml",
                metadata={"native_filter_configuration": [{"targets": [{"datasetUuid": CHART}]}]},
            ),
            f"no dataset in datasets/ has the uuid {CHART}",
        ),
        ({"notes.txt": "later"}, "notes.txt:1: must be a .yaml file in datasets/, charts/, dashboards/ of dashboards/"),
    ],
)
def test_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, files: Mapping[str, Any], error: str) -> None:
    (found,), problems = read(write(tmp_path, {**FILES, **files}))
    assert found.dashboards == ()
    assert error in problems[0]


def test_dataset_of_sql_or_of_another_schema_needs_no_published_table(tmp_path: Path) -> None:
    for values in ({"sql": "select 1 as day"}, {"schema": "staging"}):
        _, problems = read(
            write(tmp_path, {**FILES, **changed("datasets/prices_daily.yaml", table_name="newest", **values)})
        )
        assert problems == []


def test_uuid_belongs_to_one_pipeline(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), replace(write(tmp_path / "b"), name="power")
    _, problems = read(first, second)
    assert len(problems) == 3
    assert "is already used in " in problems[0]


def test_link_that_leads_out_of_the_pipeline_is_refused(tmp_path: Path) -> None:
    pipeline = write(tmp_path / "prices")
    outside = tmp_path / "secret.yaml"
    outside.write_text("a: b\n")
    (pipeline.folder / "dashboards" / "charts" / "link.yaml").symlink_to(outside)
    assert "leads out of" in read(pipeline)[1][0]


def test_built_in_weather_has_valid_dashboards_in_canonical_files() -> None:
    folder = bundled_path("pipelines/weather")
    weather = Pipeline(name="weather", folder=folder, description="", scripts={}, has_dbt=True, has_dags=True)
    (found,), problems = read(weather)
    assert problems == []
    assert [each.title for each in found.dashboards if each.kind == "dashboard"] == ["Weather"]
    for asset in found.dashboards:
        assert (folder / "dashboards" / asset.path).read_text() == file_text(asset)


# As Superset 6.1 exports it: with its numbers, and with what it derives.
EXPORTED_DASHBOARD = {
    "dashboard_title": "Prices",
    "description": None,
    "css": "",
    "slug": None,
    "published": True,
    "uuid": DASHBOARD,
    "position": {"CHART-1": {"type": "CHART", "meta": {"uuid": CHART, "chartId": 41, "width": 6}}},
    "metadata": {
        "shared_label_colors": ["a"],
        "map_label_colors": {"a": "#123456"},
        "color_scheme": "",
        "chart_configuration": {"41": {"id": 41}},
        "expanded_slices": {"41": True},
        "timed_refresh_immune_slices": [41],
        "native_filter_configuration": [{"id": "f", "scope": {"excluded": [41]}, "chartsInScope": [41]}],
    },
    "version": "1.0.0",
}


def test_numbers_and_derived_values_of_a_superset_do_not_count() -> None:
    text = json.dumps(EXPORTED_DASHBOARD)
    other = json.loads(text.replace("41", "77").replace("#123456", "#654321"))
    first, second = (canonical("dashboard", each) for each in (EXPORTED_DASHBOARD, other))
    assert first == second
    assert first["position"]["CHART-1"]["meta"]["chartId"] == 1
    assert first["metadata"] == {
        "expanded_slices": {"1": True},
        "timed_refresh_immune_slices": [1],
        "native_filter_configuration": [{"id": "f", "scope": {"excluded": [1]}}],
    }


def test_canonical_form_stays_the_same_when_it_is_written_and_read_again() -> None:
    for kind, content in (("dashboard", EXPORTED_DASHBOARD), ("chart", FILES["charts/average.yaml"])):
        asset = DashboardAsset(kind, canonical(kind, content))
        again = canonical(kind, yaml.safe_load(file_text(asset)))
        assert again == asset.content
        assert canonical(kind, to_import(asset, "prices")) == asset.content


def test_file_text_is_stable_and_readable() -> None:
    asset = DashboardAsset(
        "dataset", canonical("dataset", {"uuid": DATASET, "sql": "select *\nfrom a\n", "table_name": "x"})
    )
    lines = ["table_name: x", "sql: |", "  select *", "  from a", f"uuid: {DATASET}", ""]
    assert file_text(asset).split("\n") == lines


def test_new_file_has_the_title_as_its_name() -> None:
    asset = DashboardAsset("chart", {"slice_name": "Rain & wind, ../../x", "uuid": CHART})
    assert file_name(asset, ()) == "charts/rain_wind_x.yaml"
    assert file_name(asset, ["charts/rain_wind_x.yaml"]) == "charts/rain_wind_x_2.yaml"


def in_superset(sql: str) -> Query:
    return Query("psql", "superset_metadata", sql)


def step_of(folder: Path) -> Dashboards:
    (pipeline,), _ = read(write(folder))
    return Dashboards(SupersetAccess(in_superset, "program"), pipeline.name, pipeline.dashboards)


def answer(step: Dashboards, records: Mapping[str, Any], present: Mapping[str, str]) -> Result:
    rows = {uuid: {"title": "t", "hash": value} for uuid, value in present.items()}
    return Result("", 0, json.dumps({"records": records, "present": rows}).encode())


def deployed(step: Dashboards) -> tuple[dict[str, Any], dict[str, str]]:
    """The records and the rows after an import."""
    records = {
        each.uuid: {"kind": each.kind, "title": each.title, "rows": each.uuid[-1], "file": each.digest}
        for each in step.assets
    }
    return records, {each.uuid: each.uuid[-1] for each in step.assets}


def test_imported_dashboards_are_up_to_date(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    records, rows = deployed(step)
    assert step.check([answer(step, {"prices": records}, rows)]) is None


@pytest.mark.parametrize("found", [Result("", 1), Result("", 0, b'{"records": {}, "present": null}')])
def test_missing_dashboards_are_added(tmp_path: Path, found: Result) -> None:
    pending = step_of(tmp_path).check([found])
    assert pending
    assert pending.reason == "3 to add"
    assert pending.diff == "+ dataset prices_daily\n+ chart Average\n+ dashboard Prices\n"
    assert pending.kept == ""


def test_changed_file_is_imported_again(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    records, rows = deployed(step)
    records[CHART]["file"] = "another"
    pending = step.check([answer(step, {"prices": records}, rows)])
    assert pending
    assert (pending.reason, pending.diff, pending.kept) == ("1 to change", "~ chart Average\n", "")


def test_edit_in_the_browser_is_shown_and_kept(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    records, rows = deployed(step)
    rows[DASHBOARD] = "edited"
    pending = step.check([answer(step, {"prices": records}, rows)])
    assert pending
    assert pending.diff == "~ dashboard Prices (changed in the browser)\n"
    assert pending.kept.startswith("dashboard Prices: kept in ")
    assert pending.kept.endswith("/replaced/dashboards/prices")


def test_asset_that_homelab_did_not_import_is_kept(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    _, rows = deployed(step)
    pending = step.check([answer(step, {}, rows)])
    assert pending
    assert pending.kept.startswith("dataset prices_daily, chart Average, dashboard Prices: kept in ")


def test_removed_file_removes_a_dashboard_before_its_charts(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    records, rows = deployed(step)
    pending = replace(step, assets=()).check([answer(step, {"prices": records}, rows)])
    assert pending
    assert pending.reason == "3 to remove"
    assert pending.diff == "- dashboard Prices\n- chart Average\n- dataset prices_daily\n"


def test_dashboards_of_a_removed_pipeline_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    records, rows = deployed(step)
    found = answer(step, {"prices": records}, rows)
    assert Dashboards(step.access, others=["prices"]).check([found]) is None
    pending = Dashboards(step.access, others=["weather"]).check([found])
    assert pending
    assert pending.reason == "3 to remove"


def test_content_that_superset_refuses_is_named(tmp_path: Path) -> None:
    class Refusing(NoHost):
        name = "superset"

        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
            if command == "program":
                return Result(command, 3, b"", b"charts/average.yaml: viz_type: Unknown\n")
            return Result(command, 0, b'{"records": {}, "present": null}')

    with pytest.raises(HomelabError) as caught:
        step_of(tmp_path).apply(Refusing())
    assert caught.value.brief == (
        "Cannot import the dashboards of prices on superset: Superset does not accept the content"
    )
    assert "charts/average.yaml: viz_type" in caught.value.details
