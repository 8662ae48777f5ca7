"""Run dbt on a project with one private file, one lock and one report, for the builds of all pipelines."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atomic_file import replace_text
from contract import EXIT
from dbt_login import dbt_login
from metrics import write_metrics

# Environment of each dbt; it keeps five log files of this size.
DBT_SETTINGS = {"DBT_LOG_FILE_MAX_BYTES": str(2 << 20), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
_TRANSIENT = re.compile(
    r"IO Error|HTTP Error|could not connect|connection .*(failed|refused|closed|lost)|server closed|"
    r"the database system is|No space left|terminating connection|timeout expired",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of a build: `project` and `profiles` are read, `data` is written."""

    project: Path
    profiles: Path
    data: Path
    target: str = "target"  # dbt's folder in that of the data

    @property
    def published(self) -> Path:
        """The copy for readers."""
        return self.data / "published.duckdb"

    @property
    def run_results(self) -> Path:
        """dbt's result of each node."""
        return self.data / self.target / "run_results.json"

    @property
    def lock(self) -> Path:
        """The lock that one dbt at a time holds."""
        return self.data / "build.lock"


@contextmanager
def exclusive(lock: Path, timeout: float) -> Iterator[int]:
    """Hold the lock and yield its descriptor; wait up to `timeout` seconds for it. Raises TimeoutError."""
    until = time.monotonic() + timeout
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TimeoutError(f"cannot lock {lock}: another run has held it for {timeout:.0f} s") from None
                time.sleep(0.2)
        yield file.fileno()


def run_dbt(
    layout: Layout, lock: int, options: Sequence[str], program: str = "", variables: Mapping[str, str] | None = None
) -> int:
    """Run `dbt build`; return its exit status. Its output goes to standard error.

    `program` is another dbt than that of the venv, `variables` are added to its environment.
    dbt reaches PostgreSQL with libpq's variables; DBT_PGUSER and DBT_PGPASSWORD, if set, replace PGUSER and PGPASSWORD.
    """
    command = [
        program or dbt_program(),
        "--no-use-colors",
        "build",
        "--project-dir",
        str(layout.project),
        "--profiles-dir",
        str(layout.profiles),
        *options,
    ]
    # dbt inherits the lock, so it stays held while dbt runs, even if this process is killed.
    return subprocess.run(
        command,
        cwd=layout.data,
        env={**dbt_environment(layout), **(variables or {})},
        stdout=sys.stderr,
        pass_fds=(lock,),
        check=False,
    ).returncode


def dbt_program() -> str:
    """Return the path of dbt, which is next to the interpreter."""
    return str(Path(sys.executable).with_name("dbt"))


def dbt_environment(layout: Layout) -> dict[str, str]:
    """Return the variables with which dbt writes to the folder of data, and reaches PostgreSQL as its own role."""
    # target/ is kept: dbt's partial parsing needs it.
    return {
        **os.environ,
        "DBT_TARGET_PATH": str(layout.run_results.parent),
        "DBT_LOG_PATH": str(layout.data / "logs"),
        **DBT_SETTINGS,
        **dbt_login(),
    }


def summarize(run_results: Path) -> dict[str, Any]:
    """Count the models and tests of the last build; zeros if dbt wrote no results."""
    nodes = json.loads(run_results.read_text())["results"] if run_results.exists() else []
    tests, models = Counter[str](), Counter[str]()
    for node in nodes:
        (tests if node["unique_id"].startswith("test.") else models)[node["status"]] += 1
    return {
        "models_built": models["success"],
        "models_failed": models["error"],
        "tests_passed": tests["pass"],
        "tests_warned": tests["warn"],
        "tests_failed": tests["fail"] + tests["error"],
        "skipped": models["skipped"] + tests["skipped"],
        "problems": [
            {"node": node["unique_id"], "status": node["status"], "message": node["message"]}
            for node in nodes
            if node["status"] in ("error", "fail", "warn")
        ],
    }


def is_transient(problems: Sequence[dict[str, Any]]) -> bool:
    """Check that every error of dbt is one that can pass: of the connection, a lock, or a full disk.

    Without an error of a node, dbt ended before the first one: PostgreSQL restarted, a deploy replaced the project.
    """
    failed = [problem for problem in problems if problem["status"] in ("error", "fail")]
    return all(_TRANSIENT.search(str(problem["message"])) for problem in failed)


def write_report(
    layout: Layout,
    started: datetime,
    outcome: Mapping[str, Any],
    problems: Mapping[str, str],
    transient: bool | None = None,
) -> dict[str, Any]:
    """Write last_build.json with the outcome and the results of dbt's nodes, and its metrics; return the report.

    `problems` are the errors outside of dbt by origin, `transient` is their kind; by default, that of dbt's errors.
    """
    finished = datetime.now(UTC)
    report = {
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 1),
        **outcome,
        **summarize(layout.run_results),
    }
    report["transient"] = is_transient(report["problems"]) if transient is None else transient
    report["problems"] += [
        {"node": origin, "status": "error", "message": message} for origin, message in problems.items()
    ]
    replace_text(layout.data / "last_build.json", json.dumps(report, indent=2) + "\n")
    write_metrics(layout.data, layout.published, report)
    return report


def print_outcome(build: Callable[[], Mapping[str, Any]]) -> int:
    """Build, print the report as the last line of standard output, and return the exit status."""
    try:
        report = build()
    except TimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(report))
    if report["status"] in ("success", "partial"):
        return EXIT.success if report["status"] == "success" else EXIT.partial
    return EXIT.failed if report["transient"] else EXIT.build_failed
