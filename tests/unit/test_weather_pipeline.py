"""The weather as one pipeline among others: without it, with others only, and as the user's copy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from homelab.commands.pipeline_copy import copy_pipeline
from homelab.commands.pipeline_list import pipelines
from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.layout import Layout
from homelab.runtime.convergence import steps_of
from homelab.runtime.deployed_pipelines import deployed_pipeline
from homelab.services.leftovers import pipeline_leftovers
from homelab.services.postgres import hba
from homelab.steps import File, Tree
from tests.scripts import DAG_ID, IN_CONTAINER, TASKS
from tests.support import FixedSecretStore

KEYS = {"analytics-platform": "ssh-ed25519 AAAAHost"}


def inventory(folder: Path, weather: object, *names: str) -> Inventory:
    """Return the shipped inventory with these options of the weather, None for none, and other pipelines."""
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    overlay = folder / "overlay.yaml"
    others = {name: {"path": f"pipelines/{name}"} for name in names}
    overlay.write_text(json.dumps({"pipelines": {"weather": weather, **others}}))
    return load([bundled_path("inventory.yaml"), overlay])


def context(wanted: Inventory, service: str) -> ServiceContext:
    container = wanted.container_with(service)
    return ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)


def steps(wanted: Inventory, service: str) -> list[Step]:
    return list(steps_of(context(wanted, service)))


def text_of(found: list[Step], path: str) -> str:
    (step,) = [step for step in found if isinstance(step, File) and step.path == path]
    return step.content.decode()


@pytest.mark.parametrize("others", [(), ("prices",)])
def test_without_the_weather_nothing_of_it_is_deployed(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in others:
        new_pipeline(tmp_path, name)
    wanted = inventory(tmp_path, None, *others)
    assert wanted.weather is None
    (tmp_path / "key").unlink()
    roles = {grant.role for _, grant in wanted.database_grants()}
    assert roles == {"airflow_admin", *(role for name in others for role in (name, f"{name}_dbt"))}
    for service in ("postgres", "analytics", "airflow"):
        found = steps(wanted, service)
        texts = [step.title for step in found] + [
            step.content.decode(errors="replace") for step in found if isinstance(step, File)
        ]
        assert [text for text in texts if "OPENWEATHER" in text or "WEATHER_SCHEDULE" in text] == []
        assert not {"tables of raw", "role analytics", "role dbt", f"tree {IN_CONTAINER}/scripts"} & set(texts)
    assert " analytics " not in hba(context(wanted, "postgres")).decode()
    trees = {step.path for step in steps(wanted, "airflow") if isinstance(step, Tree)}
    assert trees == {f"/opt/airflow/bundles/{name}" for name in others}


def test_gate_without_pipelines_refuses_every_command(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, None), "analytics")
    for path in ("/opt/analytics-platform/bin/gate", "/usr/local/sbin/homelab-pipeline"):
        done = subprocess.run(
            ["sh", "-c", text_of(found, path)],
            env={"SSH_ORIGINAL_COMMAND": "weather.fetch"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 126, done.stderr
    assert done.stderr.startswith("usage:")


def test_commands_of_the_weather_are_those_of_its_manifest(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, {"api_key_file": "key"}), "analytics")
    python = "/opt/analytics-platform/venv/bin/python"
    assert f"{python} {IN_CONTAINER}/scripts/ingest_weather.py || status=$?" in text_of(
        found, f"{IN_CONTAINER}/bin/fetch"
    )
    assert text_of(found, f"{IN_CONTAINER}/bin/build").endswith(f"exec {python} {IN_CONTAINER}/scripts/dbt_build.py\n")
    assert text_of(found, f"{IN_CONTAINER}/bin/check").endswith("scripts/ingest_weather.py --last\n")
    (project,) = [step for step in found if isinstance(step, Tree) and step.path == f"{IN_CONTAINER}/dbt"]
    assert "dbt --no-use-colors --quiet parse --project-dir" in project.validate
    assert "--profile weather" in project.validate
    profiles = text_of(found, f"{IN_CONTAINER}/profiles.yml")
    assert "memory_limit: 2GB" in profiles
    assert f"PIPELINE_WAREHOUSE', '{IN_CONTAINER}/data/warehouse.duckdb'" in profiles


def test_weather_is_deployed_under_its_own_names(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, {"api_key_file": "key"})
    weather = wanted.pipeline("weather")
    assert (weather.schema, weather.writer, weather.reader) == ("raw", "analytics", "dbt")
    deployed = deployed_pipeline(wanted)
    assert (deployed.name, deployed.dag_id, deployed.build) == ("weather", DAG_ID, TASKS["build"])
    assert list(deployed.tasks) == list(TASKS.values())
    assert deployed.rebuild.endswith(f"{IN_CONTAINER}/scripts/dbt_build.py --full-refresh'")
    (listed,) = pipelines(wanted)
    assert (listed.name, listed.origin, listed.schedule) == ("weather", "homelab", "@hourly")
    assert listed.commands == "fetch build check"


def test_pipeline_without_a_name_is_the_only_one_or_the_weather(tmp_path: Path) -> None:
    for name in ("prices", "power"):
        new_pipeline(tmp_path, name)
    weather = {"api_key_file": "key"}
    assert deployed_pipeline(inventory(tmp_path, weather, "prices")).name == "weather"
    assert deployed_pipeline(inventory(tmp_path, None, "prices")).name == "prices"
    for names in ((), ("prices", "power")):
        with pytest.raises(InputError, match="Cannot use the pipeline `weather`: it is missing") as caught:
            deployed_pipeline(inventory(tmp_path, None, *names))
        assert caught.value.details == f"Pipelines in the inventory: {', '.join(names) or 'none'}."
        assert "Add `weather:` with its `cities`" in caught.value.resolution


def test_weather_that_left_the_inventory_can_be_pruned(tmp_path: Path) -> None:
    found = pipeline_leftovers("weather", inventory(tmp_path, None))
    assert found.schemas == [("lake", "weather"), ("project_data", "raw"), ("project_data", "upkeep")]
    assert (found.roles, found.folders) == (["analytics", "dbt"], [IN_CONTAINER])
    with pytest.raises(InputError, match="it is in the inventory"):
        pipeline_leftovers("weather", inventory(tmp_path, {"api_key_file": "key"}))


def test_copy_is_deployed_with_the_names_of_the_weather(tmp_path: Path) -> None:
    folder = copy_pipeline(tmp_path, "weather")
    assert (folder / "dags" / f"{DAG_ID}.py").is_file()
    model = folder / "dbt" / "models" / "marts" / "cities.sql"
    model.write_text("select 1 as mine")
    wanted = inventory(tmp_path, {"api_key_file": "key", "path": "pipelines/weather"})
    built_in = inventory(tmp_path, {"api_key_file": "key"})
    assert list(wanted.database_grants()) == list(built_in.database_grants())
    found, before = steps(wanted, "analytics"), steps(built_in, "analytics")
    assert [step.title for step in found] == [step.title for step in before]
    trees = {step.title: step.files for step in found if isinstance(step, Tree)}
    changed = [step.title for step in before if isinstance(step, Tree) and step.files != trees[step.title]]
    assert changed == [f"tree {IN_CONTAINER}/dbt"]
    assert "tables of raw" in [step.title for step in steps(wanted, "postgres")]
    (listed,) = pipelines(wanted)
    assert listed.origin == str(folder)


def test_copy_overwrites_nothing_and_has_no_tables(tmp_path: Path) -> None:
    folder = copy_pipeline(tmp_path, "weather")
    with pytest.raises(InputError, match="already exists"):
        copy_pipeline(tmp_path, "weather")
    with pytest.raises(InputError, match="Cannot copy the pipeline prices: it is not built in"):
        copy_pipeline(tmp_path, "prices")
    (folder / "schema.sql").write_text("select 1")
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, {"path": "pipelines/weather"})
    assert "schema.sql:1: homelab makes the tables of `raw`: remove this file" in caught.value.details


def test_own_build_and_the_names_of_an_own_dag_are_read(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    root = tmp_path / "pipelines" / "prices"
    (root / "dags").mkdir()
    (root / "dags" / "own.py").write_text("x = 1")
    manifest = root / "pipeline.yaml"
    commands = "commands: {fetch: scripts/fetch.py, build: scripts/fetch.py --all, check: scripts/fetch.py}\n"
    manifest.write_text(f"{commands}dag: hourly_prices\ntasks: {{build: make}}\n")
    wanted = inventory(tmp_path, None, "prices")
    deployed = deployed_pipeline(wanted)
    assert (deployed.dag_id, list(deployed.tasks), deployed.build) == (
        "hourly_prices",
        ["fetch", "make", "check"],
        "make",
    )
    layout = Layout(wanted.pipeline("prices"))
    found = steps(wanted, "analytics")
    assert text_of(found, layout.program("build")).endswith(f"{layout.root}/scripts/fetch.py --all\n")
    assert "|| status=$?" in text_of(found, layout.program("fetch"))
    (project,) = [step for step in found if isinstance(step, Tree) and step.path == layout.project]
    assert "--quiet parse" in project.validate
    manifest.write_text(f"{commands}tasks: {{load: make}}\n")
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, None, "prices")
    assert "pipeline.yaml:2: tasks.load: is not a command of the pipeline" in caught.value.details
