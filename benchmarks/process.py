"""Runs of measured programs: environment, time and memory."""

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
class ProgramRun:
    """A finished run of a program: its seconds, CPU seconds, peak memory in MB, and output."""

    seconds: float
    cpu: float
    peak: float
    output: str


def run_program(command: Sequence[str], folder: Path) -> ProgramRun:
    """Run a program. Raises SystemExit with its output if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, ThreadPoolExecutor(1) as watch:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=environment())
        peak = watch.submit(peak_memory, process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{out.read()}{err.read()}")
        return ProgramRun(seconds, usage.ru_utime + usage.ru_stime, peak.result(), out.read())


def peak_memory(pid: int) -> float:
    """Wait for the end of a process, and return the peak memory of its program in MB.

    Not from its resource usage, which includes the memory of the process that started it.
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
        return ""  # it has ended


def environment() -> dict[str, str]:
    """Return the environment of measured programs: with the network guard, without settings of the caller.

    Compiled Python files are cached, as for an installed program, but not in this checkout.
    """
    path = os.pathsep.join(filter(None, [str(_GUARD), str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HOMELAB", "ANSIBLE")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return inherited | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": _compiled().name}


@cache
def _compiled() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="homelab-compiled-")
