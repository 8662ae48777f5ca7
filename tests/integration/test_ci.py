"""`homelab ci check` and `homelab diff` in a user's repository, by hand and in the workflow of `homelab ci init`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.commands.pipeline_new import new_pipeline
from tests.integration import pg
from tests.scripts import ROOT

pytestmark = pytest.mark.timeout(300)
BIN = Path(sys.executable).parent
# Not modified, so not built again: its time stays the same.
COUNT = "select count(*) as readings, now() as built_at from {{ source('prices', 'readings') }}\n"
OLD = "select 'a' as item\nunion all\nselect 'b'"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A repository with an inventory and a pipeline with three models."""
    if pg.archive() is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(ROOT / "inventory.yaml", site)
    new_pipeline(site, "prices")
    path = site / "inventory.yaml"
    path.write_text(path.read_text().replace("pipelines:\n", "pipelines:\n  prices: {path: pipelines/prices}\n", 1))
    (site / ".gitignore").write_text(".homelab/\n__pycache__/\n")
    models = site / "pipelines" / "prices" / "dbt" / "models"
    (models / "prices_count.sql").write_text(COUNT)
    (models / "old.sql").write_text(OLD + "\n")
    git(site, "init", "-q", "-b", "main")
    commit(site, "one")
    yield site
    homelab(site, "dev", "reset", "--yes")


def git(site: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", "-C", str(site), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(site: Path, subject: str) -> None:
    git(site, "add", "-A")
    git(site, "commit", "-qm", subject)


def homelab(site: Path, *arguments: str, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "homelab", "--quiet", *arguments],
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr * (expect != 0)


def change_models(site: Path) -> None:
    """Raise one column, drop one, add one, leave out an item, add a model and remove one."""
    models = site / "pipelines" / "prices" / "dbt" / "models"
    daily = models / "prices_daily.sql"
    text = daily.read_text().replace("max(value) as highest", "max(value) + 1 as highest,\n    sum(value) as total")
    text = text.replace("    min(value) as lowest,\n", "")
    daily.write_text(text.replace("group by all", "where item <> 'gas' or measured_at >= '2026-01-02'\ngroup by all"))
    (models / "prices_items.sql").write_text("select distinct item from {{ ref('prices_daily') }}\n")
    (models / "old.sql").unlink()


def test_differences_are_those_of_the_change(site: Path) -> None:
    # electricity has 2 days, gas 2 days; the change leaves out the first day of gas.
    homelab(site, "dev", "run", "prices")
    copied = site / "published.duckdb"
    shutil.copy(published(site), copied)
    change_models(site)
    options = ("--json", "--markdown", "diff.md", "--detailed-exitcode")
    (found,) = json.loads(homelab(site, "diff", "main", *options, expect=2))
    marts = {mart["name"]: mart for mart in found["marts"]}
    assert (sorted(marts), found["unmodified"]) == (["old", "prices_daily", "prices_items"], 1)
    assert (marts["old"]["change"], marts["old"]["rows_before"]) == ("removed", 2)
    assert (marts["prices_items"]["change"], marts["prices_items"]["rows_after"]) == ("added", 2)
    daily = marts["prices_daily"]
    assert (daily["key"], daily["rows_before"], daily["rows_after"]) == (["item", "day"], 4, 3)
    assert (daily["added"], daily["removed"], daily["changed"]) == (0, 1, 3)
    assert daily["columns"] == [
        {"name": "lowest", "type_before": "DOUBLE", "type_after": "", "rows": 0},
        {"name": "highest", "type_before": "DOUBLE", "type_after": "DOUBLE", "rows": 3},
        {"name": "total", "type_before": "", "type_after": "DOUBLE", "rows": 0},
    ]
    assert "| `prices_daily` | 4 → 3 | 0 | 1 | 3 |" in (site / "diff.md").read_text()

    # On a copy of the published file.
    (on_copy,) = json.loads(homelab(site, "diff", "main", "--published", str(copied), "--json"))
    assert [mart["changed"] for mart in on_copy["marts"]] == [0, 3, 0]
    assert "prices_daily: built from the rows in this machine's PostgreSQL" in on_copy["notes"][0]

    # A model that dbt cannot build is named.
    items = site / "pipelines" / "prices" / "dbt" / "models" / "prices_items.sql"
    items.write_text("select no_such_column from {{ ref('prices_daily') }}\n")
    assert "model.prices.prices_items" in homelab(site, "diff", "main", expect=1)


def published(site: Path) -> Path:
    """Return the published file of `homelab dev run`."""
    from homelab.dev.local_stack import folder_of
    from homelab.inventory import load

    folder = folder_of(load([site / "inventory.yaml"]).state_dir)
    return (folder / "pipelines" / "prices" / "data" / "published.duckdb").resolve()


def test_checks_name_what_they_found(site: Path) -> None:
    assert homelab(site, "ci", "check").splitlines() == [
        "inventory.yaml: valid",
        "prices: sqlfluff passed",
        "prices: tests passed",
    ]
    folder = site / "pipelines" / "prices"
    (folder / "dbt" / "models" / "old.sql").write_text("SELECT 'a' AS item, 'b' as Other\n")
    (folder / "tests" / "test_more.py").write_text("def test_fails():\n    assert 1 == 2\n")
    output = homelab(site, "ci", "check", expect=1)
    assert "prices: sqlfluff failed" in output
    assert "old.sql" in output
    assert "prices: tests failed" in output
    assert "assert 1 == 2" in output

    # The user's settings of sqlfluff replace homelab's; DAGs of a pipeline are imported by Airflow.
    (site / ".sqlfluff").write_text("[sqlfluff]\ndialect = duckdb\nrules = layout.set_operators\n")
    (folder / "tests" / "test_more.py").unlink()
    manifest = folder / "pipeline.yaml"
    manifest.write_text(re.sub("(?m)^schedule:.*$", "", manifest.read_text()))
    (folder / "dags").mkdir()
    (folder / "dags" / "broken.py").write_text("from airflow.sdk import DAG\nimport no_such_module\n")
    output = homelab(site, "ci", "check", expect=1)
    assert "prices: sqlfluff passed" in output
    assert "prices: import of the DAGs failed\nbroken.py, line 2: ModuleNotFoundError" in output
    (folder / "dags" / "broken.py").write_text("from airflow.sdk import DAG, Variable\nDAG('prices')\n")
    assert "prices: import of the DAGs passed" in homelab(site, "ci", "check")


def test_act_runs_the_workflow_of_a_pull_request(site: Path, tmp_path: Path) -> None:
    homelab(site, "ci", "init", "github")
    commit(site, "workflow")
    base = git(site, "rev-parse", "HEAD")
    git(site, "checkout", "-q", "-b", "change")
    change_models(site)
    # act removes its copy of the repository, but not what `homelab dev` keeps elsewhere for root.
    workflow = site / ".github" / "workflows" / "homelab.yml"
    reset = "      - name: Reset\n        if: always()\n        run: homelab dev reset --yes\n\n  deploy:\n"
    workflow.write_text(workflow.read_text().replace("\n  deploy:\n", reset))
    commit(site, "change")
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"base": {"sha": base}}}))
    words = ["pull_request", "-P", "ubuntu-24.04=-self-hosted", "-e", str(event)]
    done = subprocess.run(
        [str(BIN / "act"), *words],
        cwd=site,
        env={**os.environ, "HOME": str(tmp_path / "home"), "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "prices: sqlfluff passed" in done.stdout
    assert "prices_daily: 4 → 3 rows: 0 added, 1 removed, 3 changed" in done.stdout
