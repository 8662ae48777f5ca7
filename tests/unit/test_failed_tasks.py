"""The words of failed tasks: from logs of Airflow 3 and 2.11, and from hostile ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from homelab.paths import bundled_path

PROGRAM = bundled_path("templates/airflow/failed_tasks.py")
AIRFLOW_3 = """{"timestamp":"2026-11-27T07:00:00Z","level":"info","event":"Running command: weather.check"}
{"timestamp":"2026-11-27T07:00:01Z","level":"warning","event":"error: 1 of 3 cities: Newark: 401","logger":"ssh"}
{"timestamp":"2026-11-27T07:00:02Z","level":"error","event":"Task failed with exception","error_detail":\
[{"exc_type":"AirflowException","exc_value":"SSH operator error: exit status = 4"}]}
"""
AIRFLOW_2 = """[2026-11-27T07:00:00.1+0000] {ssh.py:544} INFO - Running command: weather.check
[2026-11-27T07:00:01.1+0000] {ssh.py:560} WARNING - error: 1 of 3 cities: Newark: 401
[2026-11-27T07:00:02.1+0000] {taskinstance.py:3313} ERROR - Task failed with exception
Traceback (most recent call last):
  File "/opt/airflow/venv/lib/python3.11/site-packages/airflow/models/taskinstance.py", line 768, in _execute_task
airflow.exceptions.AirflowException: SSH operator error: exit status = 4
[2026-11-27T07:00:02.1+0000] {standard_task_runner.py:124} ERROR - Failed to execute job 9 for task t (SSH operator \
error: exit status = 4; 4091)
[2026-11-27T07:00:02.2+0000] {local_task_job_runner.py:266} INFO - Task exited with return code 1
"""
WORDS = "AirflowException: SSH operator error: exit status = 4: error: 1 of 3 cities: Newark: 401"


def metric(folder: Path, log: str | None) -> str:
    """Return the metric of a failed task with this log."""
    if log is not None:
        path = folder / "dag_id=d" / "run_id=r" / "task_id=t" / "attempt=2.log"
        path.parent.mkdir(parents=True)
        path.write_bytes(log.encode("utf-8", "surrogateescape"))
    words = [sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(words, input=json.dumps([["d", "r", "t"]]), capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("log", [AIRFLOW_3, AIRFLOW_2])
def test_words_are_the_exception_and_the_last_line_of_the_script(tmp_path: Path, log: str) -> None:
    assert metric(tmp_path, log) == f'homelab_airflow_dag_failed_task{{dag="d",task="t",message="{WORDS}"}} 1\n'


@pytest.mark.parametrize("log", [None, "", "no log\n", "{}\n[]\n3\n", "\udcff\udcfe\n"])
def test_task_without_words_is_named(tmp_path: Path, log: str | None) -> None:
    assert metric(tmp_path, log) == 'homelab_airflow_dag_failed_task{dag="d",task="t",message=""} 1\n'


def test_words_cannot_add_a_metric(tmp_path: Path) -> None:
    log = json.dumps({"level": "error", "event": 'x"} 1\nup 1\n# {\\" ' + "y" * 1000})
    line = metric(tmp_path, log)
    assert line.startswith('homelab_airflow_dag_failed_task{dag="d",task="t",message="x\'} 1 up 1 # {/\' yyy')
    assert len(line.splitlines()) == 1
    assert len(line) < 500
