"""Limits of logs and metadata: the journal of each container, and the runs and logs of Airflow."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.steps import File, SystemdUnit
from tests.support import FixedSecretStore

KEYS = {"analytics-platform": "ssh-ed25519 AAAAHost"}
DAY = 86400
JOURNAL = "/etc/systemd/journald.conf.d/homelab.conf"


def inventory(folder: Path, text: str) -> Inventory:
    (folder / "own.yaml").write_text(text)
    return load([bundled_path("inventory.yaml"), folder / "own.yaml"])


def steps(found: Inventory, name: str) -> list[Step]:
    (container,) = [each for each in found.containers if each.name == name]
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
    return list(steps_of(context))


def file(found: list[Step], path: str) -> str:
    (step,) = [step for step in found if isinstance(step, File) and step.path == path]
    return step.content.decode()


def test_journal_of_each_container_has_its_limit(tmp_path: Path) -> None:
    found = inventory(
        tmp_path, "{defaults: {journal_size: 1GB}, containers: {airflow-orchestration: {journal_size: 64MiB}}}"
    )
    assert "\nSystemMaxUse=1000000000\nRuntimeMaxUse=1000000000\n" in file(steps(found, "postgres-data"), JOURNAL)
    assert "\nSystemMaxUse=67108864\n" in file(steps(found, "airflow-orchestration"), JOURNAL)


def cleanup_script(folder: Path, airflow: str, paths: dict[str, Path]) -> str:
    """Return the script with the folders of a test in the place of the container's."""
    found = inventory(folder, f"containers: {{airflow-orchestration: {{services: {{airflow: {{{airflow}}}}}}}}}")
    text = file(steps(found, "airflow-orchestration"), "/usr/local/sbin/homelab-airflow-cleanup")
    for path, here in paths.items():
        text = text.replace(path, str(here))
    return text


@pytest.mark.parametrize(
    ("options", "days", "further"),
    [
        ('version: "3.3"', 90, " --error-on-cleanup-failure"),
        ('version: "3.3", retention: 2d', 2, " --error-on-cleanup-failure"),
        ('version: "2.11"', 90, ""),
    ],
)
def test_old_logs_and_rows_of_airflow_are_removed(tmp_path: Path, options: str, days: int, further: str) -> None:
    venv, home = tmp_path / "venv", tmp_path / "home"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "airflow").write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/called\n')
    (venv / "bin" / "airflow").chmod(0o755)
    now = time.time()
    ages = {
        "dag_id=a/run_id=old/task_id=t/attempt=1.log": days * DAY + 3600,
        "dag_id=a/run_id=new/task_id=t/attempt=1.log": days * DAY - 3600,
        "dag_processor/2026-01-01/a.py.log": 8 * DAY,
        "dag_processor/2026-01-02/a.py.log": 1 * DAY,
    }
    for name, age in ages.items():
        path = home / "logs" / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
        for each in (path, *path.parents[: len(Path(name).parents)]):
            os.utime(each, (now - age, now - age))
    (home / "logs" / "dag_id=a" / "run_id=starting").mkdir()
    script = cleanup_script(tmp_path, options, {"/opt/airflow/venv": venv, "/var/lib/airflow": home})
    subprocess.run(["sh", "-c", script], check=True, timeout=30)
    left = {str(path.relative_to(home / "logs")) for path in (home / "logs").rglob("*") if path.is_file()}
    assert left == {"dag_id=a/run_id=new/task_id=t/attempt=1.log", "dag_processor/2026-01-02/a.py.log"}
    assert (home / "logs" / "dag_id=a" / "run_id=starting").is_dir()
    words = (tmp_path / "called").read_text().strip()
    assert words.startswith("db clean --tables ")
    assert words.endswith(f" --skip-archive --yes{further}")
    tables = words.split()[3].split(",")
    assert {"dag_run", "log", "job", "session"} <= set(tables)
    assert "dag" not in tables, "a DAG that was not parsed lately would lose its state"
    before = datetime.fromisoformat(words.split()[5])
    assert abs(datetime.now(UTC) - timedelta(days=days) - before) < timedelta(minutes=2)


def test_timer_starts_again_after_a_migration_that_has_stopped_it(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, ""), "airflow-orchestration")
    (timer,) = [step for step in found if isinstance(step, SystemdUnit) and step.unit == "airflow-cleanup.timer"]
    assert "upgrade of airflow" in [step.title for step in timer.triggered_by]


def test_log_of_each_dbt_is_limited_also_in_a_build_of_the_users_own(tmp_path: Path) -> None:
    folder = tmp_path / "prices"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "build.py").touch()
    (folder / "pipeline.yaml").write_text("commands: {build: scripts/build.py}\nschedule: '@daily'\n")
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o600)
    found = inventory(tmp_path, f"pipelines: {{prices: {{path: {folder}}}, weather: {{api_key_file: {key}}}}}")
    root = "/opt/analytics-platform/pipelines/prices"
    lines = set(file(steps(found, "analytics-platform"), f"{root}/pipeline.env").splitlines())
    assert {f"DBT_LOG_PATH={root}/data/logs", "DBT_LOG_FILE_MAX_BYTES=2097152", "DBT_LOG_FORMAT_FILE=json"} <= set(
        lines
    )
