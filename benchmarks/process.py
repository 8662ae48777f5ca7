"""Programs that are measured: in which environment, how long, and with how much memory."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_GUARD = ROOT / "tests" / "network_guard"  # refuses connections to anything but loopback and the lab's subnet


@dataclass(frozen=True)
class Ran:
    """A run of a program to its end: seconds, CPU seconds, MB at its peak, and what it printed."""

    seconds: float
    cpu: float
    peak: float
    said: str


def ran(command: Sequence[str], folder: Path) -> Ran:
    """Run a program. Raises SystemExit, quoting it, when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, ThreadPoolExecutor(1) as watch:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=environment())
        most = watch.submit(peak, process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{out.read()}{err.read()}")
        return Ran(seconds, usage.ru_utime + usage.ru_stime, most.result(), out.read())


def peak(pid: int) -> float:
    """The most memory that a process has had since its program began, in MB; returns when it has ended.

    Not from its resource usage, in which the memory of the process that started it counts as well.
    """
    most, status = 0.0, Path(f"/proc/{pid}/status")
    while found := re.search(r"VmHWM:\s+(\d+) kB", _read(status)):
        most = int(found[1]) * 1024 / 1e6
        time.sleep(0.05)
    return most


def _read(status: Path) -> str:
    try:
        return status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended, and was waited for


def environment() -> dict[str, str]:
    """What programs that are measured find in their environment: the guard, and no settings of the caller's.

    What Python has compiled is kept, as it is where a program is installed, but not in this checkout.
    """
    path = os.pathsep.join(filter(None, [str(_GUARD), str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HOMELAB", "ANSIBLE")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": _compiled().name}


@cache
def _compiled() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="homelab-compiled-")
