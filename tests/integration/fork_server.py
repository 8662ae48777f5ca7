"""Verbs in separate processes that can be killed: forks of one process that has imported everything.

As a program, it reads one job per line, as the hex text of a pickle, forks, and prints JSON lines: the child's process
id, its output, its exit status, and null.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from homelab.commands import backup, restore, snapshot
from homelab.commands.destroy import destroy
from homelab.commands.up import up
from homelab.errors import HomelabError
from homelab.model import Inventory
from tests.integration.deployed import deploy_as_job
from tests.scripts import ROOT
from tests.support import make_session


@dataclass(frozen=True)
class Job:
    """A run of `homelab VERB --yes --limit …`, without a wait for SSH: the containers have none."""

    verb: str
    inventory: Inventory
    limit: tuple[str, ...] = ()

    def run(self) -> str:
        """Run the verb and return its output. Raises HomelabError."""
        session = make_session(self.inventory)
        if self.verb == "destroy":
            return str(destroy(session, limit=self.limit, confirm=lambda plan: True))
        if self.verb == "deploy":
            return deploy_as_job(self.inventory, self.limit)
        if self.verb == "snapshot create":
            return str(snapshot.create(session, "a1", limit=self.limit))
        if self.verb == "snapshot rollback":
            return str(snapshot.rollback(session, "a1", limit=self.limit, confirm=lambda lines: True))
        if self.verb == "backup":
            return str(backup.backup(session, names=self.limit, keep=1, confirm=lambda lines: True))
        if self.verb == "restore":
            return str(restore.restore(session, self.limit[0], confirm=lambda lines: False))
        return str(up(session, confirm=lambda plan: True, limit=self.limit))


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit status, or minus the signal that killed it, and its output."""

    status: int
    said: str


class ForkServer:
    """Starts jobs, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._to: IO[str] = process.stdin
        self._lines: Iterator[str] = iter(process.stdout)

    def begin(self, job: Job) -> int:
        """Start a job and return its process id."""
        print(pickle.dumps(job).hex(), file=self._to, flush=True)
        return int(json.loads(next(self._lines)))

    def end(self) -> Ended:
        """Wait for the end of the started job."""
        *said, status = iter(lambda: json.loads(next(self._lines)), None)
        return Ended(int(status), "".join(said))


@contextmanager
def runner() -> Iterator[ForkServer]:
    """Run a fork server for the duration of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        yield ForkServer(process)


def _say(something: object) -> None:
    os.write(1, (json.dumps(something) + "\n").encode())


def _child(job: Job) -> int:
    try:
        _say(job.run())
    except HomelabError as error:
        _say(str(error))
        return error.exit_code
    return 0


def main() -> None:
    """Serve until the input ends. The process has only one thread, so forks of it are safe."""
    for line in iter(sys.stdin.readline, ""):
        job = pickle.loads(bytes.fromhex(line))  # noqa: S301 - from our own test
        child = os.fork()
        if child == 0:
            status = 70
            try:
                _say(os.getpid())  # by itself, or its output could come first
                status = _child(job)
            finally:
                if status == 70:
                    traceback.print_exc()
                os._exit(status)  # whatever happens: this process must not go on with the loop
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        _say(None)


if __name__ == "__main__":
    main()
