"""Push each published file to the containers that read it, after each publication.

Usage: push.py SETTINGS; the file has the targets, the files by pipeline, the command that connects to a target, and
the file in which the program records the copies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

INTERVAL = 10.0  # seconds between two checks of the files
REFRESH = 300.0  # seconds between two lists of the copies of a target, which may be restored from a backup
LONGEST = 3600.0  # seconds of one transfer

Version = tuple[int, int]  # size, time of the last change in ns


@dataclass
class Target:
    """A container that has copies of the published files."""

    name: str
    ssh: Sequence[str]
    copies: dict[str, Version] = field(default_factory=dict)
    listed: float | None = None
    problem: str = ""

    def update(self, files: Mapping[str, Path], now: float) -> None:
        """Push the files that differ from their copies, and report each new problem once."""
        problems = [self._attempt(self._list, now)]
        if self.listed is not None:
            problems = [self._attempt(self._push, pipeline, path) for pipeline, path in files.items()]
        problem = "; ".join(filter(None, problems))
        if problem != self.problem:
            print(f"{self.name}: {problem or 'works again'}", file=sys.stderr, flush=True)
        self.problem = problem

    def _attempt(self, action: Callable[..., None], *arguments: object) -> str:
        """Run an action and return its problem, or an empty text."""
        try:
            action(*arguments)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            output = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
            return " ".join((output or str(error)).split())[-300:]
        return ""

    def _list(self, now: float) -> None:
        if self.listed is None or now - self.listed > REFRESH:
            self.listed = None
            self.copies, self.listed = parse_copies(self._run("list", subprocess.DEVNULL)), now

    def _push(self, pipeline: str, path: Path) -> None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return  # before the first publication
        with file:  # a publication replaces the file, and does not change it
            state = os.fstat(file.fileno())
            version = (state.st_size, state.st_mtime_ns)
            if self.copies.get(pipeline) != version:
                self._run(f"put {pipeline} {version[0]} {version[1]}", file)
                self.copies[pipeline] = version
                print(f"{self.name}: pushed {pipeline}, {version[0]} bytes", flush=True)

    def _run(self, command: str, stdin: int | IO[bytes]) -> str:
        done = subprocess.run(
            [*self.ssh, command], stdin=stdin, capture_output=True, text=True, timeout=LONGEST, check=True
        )
        return done.stdout


def parse_copies(listing: str) -> dict[str, Version]:
    """Return the versions in the answer to `list`: lines of name, size, and time in seconds with nine decimals."""
    found = {}
    for line in listing.splitlines():
        name, size, changed = line.split()
        found[name] = (int(size), int(changed.replace(".", "")))
    return found


def record_copies(targets: Sequence[Target], record: Path) -> None:
    """Write the known copies, as lines of target, pipeline, and time in seconds: the metrics of this container."""
    lines = [
        f"{each.name} {name} {changed // 10**9}\n" for each in targets for name, (_, changed) in each.copies.items()
    ]
    new = record.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(record)


def main(settings: Mapping[str, Any]) -> None:
    """Push until the end of the process."""
    targets = [Target(name, [*settings["ssh"], address]) for name, address in settings["targets"].items()]
    files = {name: Path(path) for name, path in settings["files"].items()}
    while True:
        for target in targets:
            target.update(files, time.monotonic())
            with suppress(OSError):  # a full disk stops no push; the old record causes an alert
                record_copies(targets, Path(settings["record"]))
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
