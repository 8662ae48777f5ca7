"""A lab of a test file's own, created for it and always removed afterwards, and helpers to work in it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.deploy import deploy
from homelab.commands.up import up as make_up
from homelab.errors import HomelabError
from homelab.host import check
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.lab import Lab, down, missing, up
from homelab.model import Inventory, Step
from homelab.progress import SilentProgress
from homelab.runtime.connections import Connection
from homelab.runtime.container_changes import Outcome
from homelab.runtime.session import Session
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes

QUIET = SilentProgress()
_CLAIMS = Path("/run/homelab-tests")  # a file for each lab of a test, with its settings; locked while the test runs
PROGRAM = (sys.executable, "-m", "homelab")
_STATE_OF_AIRFLOW = """set -a; . /etc/homelab/airflow-database.env
psql -c "select dag_id, run_id, state, queued_at, start_date from dag_run order by queued_at desc limit 9"
psql -c "select dag_id, run_id, task_id, state, try_number, pid, last_heartbeat_at from task_instance
order by updated_at desc limit 9"
psql -c "select dag_id, is_paused, is_stale, last_parsed_time from dag"
psql -c "select job_type, state, latest_heartbeat, now() from job order by latest_heartbeat desc limit 9"
ps -eo pid,ppid,etimes,stat,wchan:24,args; journalctl --no-pager -n 200 -u 'airflow-*'
ls -t $(find /var/lib/airflow/logs -name 'attempt=*') | head -n 3 | xargs tail -n 20"""
ECHO_STACK = Path(__file__).parents[1] / "packages" / "echo_stack"  # with a service and a pipeline


def in_a_lab(seconds: float = 600) -> list[pytest.MarkDecorator]:
    """Return the marks of a test file that needs a lab, with a timeout per test."""
    return [
        pytest.mark.lab,
        pytest.mark.timeout(seconds),
        pytest.mark.skipif(bool(missing()), reason="cannot run a lab: " + "; ".join(missing())),
    ]


def install_echo_stack(folder: Path) -> Path:
    """Install the package with a service and a pipeline into a folder for PYTHONPATH; return the folder."""
    install = ["uv", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([*install, "--python", sys.executable, str(ECHO_STACK)], check=True, env=environment)
    return folder


def run_homelab(
    folder: Path,
    overlays: Sequence[Path],
    words: Sequence[str],
    *,
    program: Sequence[str | Path] = PROGRAM,
    environment: Mapping[str, str] | None = None,
    expect: Sequence[int] = (0,),
    stdin: str = "",
    timeout: float = 550,
) -> subprocess.CompletedProcess[str]:
    """Run homelab's command line in a folder, and check its exit code. A timeout shows the state of Airflow."""
    files = [word for path in overlays for word in ("--overlay", str(path))]

    def run(words: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *files, *words],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    try:
        done = run(words, timeout)
    except subprocess.TimeoutExpired as error:
        shown = run(["ssh", "airflow-orchestration", "--", _STATE_OF_AIRFLOW], 60)
        raise AssertionError(f"{words}: no end\n{error.stderr!r}\n{shown.stdout}\n{shown.stderr}") from error
    assert done.returncode in expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def processes_showing(secret: str) -> str:
    """Return shell text that prints the command lines with a generated secret; it does not find itself."""
    return f"grep -ls -e '[{secret[0]}]{secret[1:12]}' /proc/[1-9]*/cmdline || true"


@contextmanager
def claimed(lab: Lab) -> Iterator[None]:
    """Hold a lab for the duration of the block, without leftovers of killed runs; always remove it afterwards.

    Also the leftovers of other tests' labs are removed: their bridges may have this lab's addresses. The lab of a run
    that goes on is held by it, and kept.
    """
    _CLAIMS.mkdir(exist_ok=True)
    with (_CLAIMS / lab.name).open("a+") as claim:
        with _one_at_a_time():
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AssertionError(f"another run of these tests has the lab `{lab.name}`: wait for its end") from None
            for other in _CLAIMS.iterdir():
                if other.name != lab.name:
                    _remove_orphan(other)
        down(lab, QUIET)
        claim.truncate(0)
        claim.write(lab.to_json())
        claim.flush()
        try:
            yield
        finally:
            down(lab, QUIET)
            claim.truncate(0)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    folder = os.open(_CLAIMS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _remove_orphan(path: Path) -> None:
    """Remove a lab that no test holds any more."""
    with path.open("r+") as claim, suppress(BlockingIOError):
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if text := claim.read():
            down(Lab.from_json(text), QUIET)
            claim.truncate(0)


@contextmanager
def fresh(lab: Lab) -> Iterator[None]:
    """Start a claimed lab for the duration of the block."""
    with claimed(lab):
        up(lab, QUIET)
        yield


@dataclass(frozen=True)
class LabFixture:
    """The containers of an inventory in a lab. The default container is the first one."""

    inventory: Inventory

    @property
    def session(self) -> Session:
        """A session on the inventory."""
        return Session.open(self.inventory, QUIET)

    @property
    def known_hosts(self) -> KnownHosts:
        """The pinned host keys."""
        return KnownHosts.of(self.inventory.state_dir)

    def up(self, *limit: str) -> Outcome:
        """Run `homelab up --yes`."""
        return make_up(self.session, confirm=lambda plan: True, limit=limit)

    def connect(self, name: str = "") -> Connection:
        """Open a new connection to a container, with its pinned host key."""
        container = next(each for each in self.inventory.containers if name in ("", each.name))
        return self.session.connect(container, 60)

    def run(self, command: str, name: str = "") -> str:
        """Run a command that has to succeed and return its output."""
        with self.connect(name) as host:
            return check(host, command, f"run `{command}`").text

    def memory(self, user: str, name: str = "") -> int:
        """Return the proportional memory of a user's processes, in KiB."""
        maps = f"for pid in $(ps -o pid= -u {user}); do cat /proc/$pid/smaps_rollup; done"
        return int(self.run(f"{maps} | awk '/^Pss:/ {{ sum += $2 }} END {{ print sum }}'", name))

    def deploy(self, steps: Sequence[Step]) -> list[str]:
        """Converge and return the changes."""
        with self.connect() as host:
            return [str(change) for change in converge(host, steps, QUIET)]

    def fails(self, steps: Sequence[Step]) -> HomelabError:
        """Return the error of a failing deploy, after checking its three parts."""
        with pytest.raises(HomelabError) as caught:
            self.deploy(steps)
        error = caught.value
        assert error.brief
        assert "may be half done" in error.details
        assert "run `homelab deploy` again" in error.resolution, str(error)
        return error

    def pending(self, steps: Sequence[Step]) -> list[str]:
        """Return the pending changes."""
        with self.connect() as host:
            return [str(change) for change in pending_changes(host, steps)]


@contextmanager
def lab_with(lab: Lab, folder: Path, inventory: str, *overlays: str) -> Iterator[LabFixture]:
    """Start a lab for the duration of the block, with an inventory and overlays, and no containers yet."""
    first, *more = (folder / f"{number}.yaml" for number in range(1 + len(overlays)))
    for path, text in zip((first, *more), (inventory, *overlays), strict=True):
        path.write_text(text)
    with fresh(lab):
        yield LabFixture(replace(load([first, lab.overlay, *more]), state_dir=folder / "state"))


def changes(lab: LabFixture, dry_run: bool = False) -> list[str]:
    """Deploy without a failure and return all changes."""
    reports = deploy(lab.session, dry_run=dry_run)
    assert not [str(report.failure) for report in reports if report.failure]
    return [str(change) for report in reports for change in report.changes]


def query_prometheus(url: str, promql: str) -> list[dict[str, Any]]:
    """Return the result of a query."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}", timeout=10) as answer:
        return json.load(answer)["data"]["result"]  # type: ignore[no-any-return]
