"""`homelab dev`: the whole pipeline on this machine, also after a kill; no process is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.dev.local_stack import folder_of
from tests.integration import pg
from tests.integration.waiting import until
from tests.scripts import ROOT


def processes(folder: Path) -> list[str]:
    """Return the command lines of running processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder with its own inventory; everything that `homelab dev` creates for it is removed."""
    if pg.archive() is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    shutil.copy(ROOT / "inventory.yaml", tmp_path)
    yield tmp_path
    homelab(tmp_path, "reset", "--yes")


def homelab(site: Path, *arguments: str, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "homelab", "dev", *arguments],
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr * (expect != 0)


def test_pipeline_runs_without_containers(site: Path) -> None:
    state = next(
        line.split()[1] for line in (site / "inventory.yaml").read_text().splitlines() if line.startswith("lab:")
    )
    folder = folder_of(site / ".homelab" / state)
    assert "homelab dev run" in homelab(site, "query", "select 1", expect=1)

    first = subprocess.Popen(
        [sys.executable, "-m", "homelab", "dev", "run", "--hours", "5"],
        cwd=site,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: (folder / "data" / "logs" / "dbt.log").exists())
    time.sleep(2)
    assert any("postgres -D" in command for command in processes(folder))
    first.kill()
    first.wait()
    until(lambda: processes(folder) == [])

    again = json.loads(homelab(site, "run", "--hours", "3", "--json"))
    assert again["stored"] == 9
    assert {mart["name"]: mart["rows"] for mart in again["marts"]}["weather_hourly"] == 24
    assert json.loads(homelab(site, "query", "--json", "select count(*) as n from stg_weather")) == [{"n": 24}]

    assert "PASS=" in homelab(site, "dbt", "--", "build", "-s", "weather_daily")
    assert "No such command" in homelab(site, "dbt", "nonsense", expect=2)
    assert processes(folder) == []
    assert "--yes" in homelab(site, "reset", expect=2)
    assert folder.exists()
    homelab(site, "reset", "--yes")
    assert not folder.exists()


def add_prices(site: Path) -> Path:
    """Write a pipeline and add it to the inventory; return its folder."""
    new_pipeline(site, "prices")
    path = site / "inventory.yaml"
    path.write_text(path.read_text().replace("pipelines:\n", "pipelines:\n  prices: {path: pipelines/prices}\n"))
    return site / "pipelines" / "prices"


def test_watched_pipeline_is_built_after_each_save_and_ends_with_ctrl_c(site: Path) -> None:
    folder = add_prices(site)
    log = site / "log"
    with log.open("w") as output:
        words = [sys.executable, "-m", "homelab", "-q", "dev", "run", "prices", "--watch"]
        process = subprocess.Popen(words, cwd=site, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def runs(count: int) -> bool:
        return until(lambda: log.read_text().count("Watching for changes") == count)

    try:
        assert runs(1), log.read_text()
        assert log.read_text().startswith("fetch")
        model = folder / "dbt" / "models" / "prices_daily.sql"
        right = model.read_text()
        model.write_text(right.replace("max(value)", "max(no_such_column)"))
        assert runs(2), log.read_text()
        assert "no_such_column" in log.read_text()
        model.write_text(right.replace("max(value)", "max(value) + 1"))
        assert runs(3), log.read_text()
        assert log.read_text().splitlines()[-2].startswith("build")  # models alone need no fetch
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert log.read_text().splitlines()[-1] == "Stopped"
    finally:
        process.kill()
    sql = "select max(highest) as n from prices_daily"
    assert json.loads(homelab(site, "query", "--pipeline", "prices", sql, "--json")) == [{"n": 31.5}]


def test_own_pipeline_runs_without_containers(site: Path) -> None:
    add_prices(site)
    for _ in range(2):
        outcome = json.loads(homelab(site, "run", "prices", "--json"))
        assert (list(outcome["commands"]), outcome["models_built"]) == (["fetch", "build"], 1)
    rows = json.loads(homelab(site, "query", "--pipeline", "prices", "from prices_daily", "--json"))
    assert len(rows) == 4
    assert "prices.prices_daily" in homelab(site, "dbt", "prices", "--", "ls")
    assert "8 passed" in homelab(site, "test", "prices")
    (site / "pipelines" / "prices" / "scripts" / "prices.csv").write_text("item\nx\n")
    assert "prices.csv, line 2" in homelab(site, "run", "prices", expect=1)
