"""Build and test the marts with dbt in a private file, and publish a copy of it if all is well.

Readers open data/published.duckdb, which is replaced in one step: they never see half a build, and a bad build leaves
them what they had. data/last_build.json tells how it went. Postgres is reached by libpq's own variables; DBT_PGUSER and
DBT_PGPASSWORD, where they are set, win over PGUSER and PGPASSWORD, as dbt need not write there.

The last line on standard output is the same report. Exit status: 0 published, 1 not, 2 bad options.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import tested
from publish import publish

ROOT = Path(__file__).resolve().parents[1]
FULL_REFRESH = "--full-refresh"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are: dbt's project and profiles are read, `data` is written to."""

    project: Path
    profiles: Path
    data: Path

    @property
    def warehouse(self) -> Path:
        """The private file that dbt builds in."""
        return self.data / "warehouse.duckdb"

    @property
    def published(self) -> Path:
        """The copy for readers."""
        return self.data / "published.duckdb"

    @property
    def results(self) -> Path:
        """What dbt says about each of its nodes."""
        return self.data / "target" / "run_results.json"


@contextmanager
def only_one(lock: Path, patience: float) -> Iterator[int]:
    """Hold the lock; wait for another run up to `patience` seconds. Raises TimeoutError."""
    until = time.monotonic() + patience
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise TimeoutError(f"another run has held {lock} for {patience:.0f} s") from None
                time.sleep(0.2)
        yield file.fileno()


def build(layout: Layout, lock: int, words: Sequence[str]) -> int:
    """Run `dbt build`; returns its exit status. Its own words go to standard error."""
    layout.results.unlink(missing_ok=True)
    # The unit tests are about the code, which is the same every hour; so are the seeds, once they are there.
    passed_over = ["unit_test", "exposure", *(() if FULL_REFRESH in words else ("seed",))]
    command = [
        str(Path(sys.executable).with_name("dbt")),
        "--no-use-colors",
        "build",
        *(f"--exclude-resource-type={kind}" for kind in passed_over),
        "--project-dir",
        str(layout.project),
        "--profiles-dir",
        str(layout.profiles),
        *words,
    ]
    # target/ is kept: from it dbt knows what it need not parse again.
    environment = {
        **os.environ,
        "DBT_TARGET_PATH": str(layout.results.parent),
        "DBT_LOG_PATH": str(layout.data / "logs"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    environment |= {
        name.removeprefix("DBT_"): os.environ[name] for name in ("DBT_PGUSER", "DBT_PGPASSWORD") if name in os.environ
    }
    # dbt inherits the lock, so it is held as long as dbt runs, even if this process is killed.
    return subprocess.run(
        command, cwd=layout.data, env=environment, stdout=sys.stderr, pass_fds=(lock,), check=False
    ).returncode


def summary(results: Path) -> dict[str, Any]:
    """Models and tests of the last build, from what dbt has written down; empty counts if it got nowhere."""
    nodes = json.loads(results.read_text())["results"] if results.exists() else []
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


def run(layout: Layout, patience: float, words: Sequence[str], everything: bool = False) -> dict[str, Any]:
    """Build, test, and publish if that went well; returns and writes down the report. Raises TimeoutError.

    The tests look at what is new; at `everything` if asked to, once a week, and when all is built anew.
    """
    layout.data.mkdir(parents=True, exist_ok=True)
    with only_one(layout.data / "transform.lock", patience) as lock:
        started = datetime.now(UTC)
        code = tested.code(layout.project, os.environ.get("OPENWEATHER_UNITS", ""))
        known = tested.read(layout.warehouse)
        if known.code != code:
            # Rows that other code has made would stand beside this one's.
            words = [*dict.fromkeys((*words, FULL_REFRESH))]
        anew = FULL_REFRESH in words
        if anew:
            tested.begin_anew(layout.warehouse)
        elif everything or not known.lately(started):
            everything = True
            tested.forget(layout.warehouse)
        status = build(layout, lock, words)
        if status == 0:
            with duckdb.connect(str(layout.warehouse)) as connection:
                tested.remember(connection, started if anew or everything else known.in_full, code)
                connection.execute("checkpoint")
            publish(layout.warehouse, layout.published)
        finished = datetime.now(UTC)
        report = {
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - started).total_seconds(), 1),
            "status": "success" if status == 0 else "failed",
            "full_refresh": anew,
            "tested": "everything" if anew or everything else "new rows",
            **summary(layout.results),
        }
        new = layout.data / "last_build.new"
        new.write_text(json.dumps(report, indent=2) + "\n")
        os.replace(new, layout.data / "last_build.json")
    return report


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, default=ROOT / "dbt" / "analytics_project")
    parser.add_argument("--profiles", type=Path, default=ROOT / "dbt", help="the folder of profiles.yml")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where to build and to publish")
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for another run")
    parser.add_argument("--full-refresh", action="store_true", help="build everything anew from the raw rows")
    parser.add_argument("--test-everything", action="store_true", help="test the old rows as well, as once a week")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    try:
        report = run(layout, options.wait, [FULL_REFRESH] if options.full_refresh else [], options.test_everything)
    except TimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0 if report["status"] == "success" else 1


if __name__ == "__main__":
    sys.exit(main())
