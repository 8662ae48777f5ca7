"""A container's cgroups: limits, resource usage and cleanup, for cgroup v1 and v2."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from homelab.lab.machine import CGROUPS as ROOT
from homelab.lab.machine import v2
from homelab.lab.process import kill_all

_PERIOD = 100_000  # µs
_FREEZE = 30.0  # seconds until freezing counts as failed
MIB = 1024 * 1024


def limits(config: Mapping[str, object], *, unified: bool) -> dict[str, str]:
    """Return the control files for a container's cores, memory and swap, in a writable order."""
    memory = int(str(config.get("memory") or 512)) * MIB
    swap = int(str(config.get("swap") or 0)) * MIB
    cores = int(str(config.get("cores") or 0))
    if unified:
        quota = f"{cores * _PERIOD} {_PERIOD}" if cores else f"max {_PERIOD}"
        return {"memory.max": str(memory), "memory.swap.max": str(swap), "cpu.max": quota}
    return {
        "memory.limit_in_bytes": str(memory),
        "memory.memsw.limit_in_bytes": str(memory + swap),
        "cpu.cfs_period_us": str(_PERIOD),
        "cpu.cfs_quota_us": str(cores * _PERIOD if cores else -1),
    }


def supported(file: str, *, unified: bool) -> bool:
    """Check that this kernel has a control file: swap accounting, for example, may be disabled."""
    if unified:
        controllers = (ROOT / "cgroup.controllers").read_text().split()
        return file.split(".")[0] in controllers
    return (ROOT / file.split(".")[0] / file).exists()


def lxc_lines(config: Mapping[str, object]) -> Iterator[str]:
    """Yield the limits as lines of an LXC configuration."""
    unified = v2()
    for file, value in limits(config, unified=unified).items():
        if supported(file, unified=unified):
            yield f"lxc.cgroup{'2' if unified else ''}.{file} = {value}"


def apply(name: str, config: Mapping[str, object]) -> None:
    """Apply changed limits to a running container. Raises OSError when the kernel refuses them."""
    unified = v2()
    files = {
        _file(name, file): value
        for file, value in limits(config, unified=unified).items()
        if supported(file, unified=unified)
    }
    refused = {path: value for path, value in files.items() if not _write(path, value)}
    # The memory limit may never exceed the limit of memory plus swap, so growing and shrinking need opposite orders.
    for path, value in refused.items():
        path.write_text(value)


def _write(path: Path, value: str) -> bool:
    try:
        path.write_text(value)
    except OSError:
        return False
    return True


def _file(name: str, file: str) -> Path:
    return ROOT / name / file if v2() else ROOT / file.split(".")[0] / name / file


@dataclass(frozen=True, slots=True)
class Usage:
    """A container's resource usage: CPU seconds since its start, bytes of memory without reclaimable cache, of swap."""

    cpu: float = 0
    memory: int = 0
    swap: int = 0


def usage(name: str) -> Usage:
    """Read a container's resource usage; zeros if it is not running."""
    try:
        return _usage_v2(name) if v2() else _usage_v1(name)
    except FileNotFoundError:
        return Usage()


def _usage_v1(name: str) -> Usage:
    used = int(_file(name, "memory.usage_in_bytes").read_text())
    stat = _pairs(_file(name, "memory.stat").read_text())
    return Usage(
        cpu=int(_file(name, "cpuacct.usage").read_text()) / 1e9,
        memory=max(used - stat.get("total_inactive_file", 0), 0),
        swap=stat.get("total_swap", 0),
    )


def _usage_v2(name: str) -> Usage:
    used = int(_file(name, "memory.current").read_text())
    stat = _pairs(_file(name, "memory.stat").read_text())
    swap = _file(name, "memory.swap.current")
    return Usage(
        cpu=_pairs(_file(name, "cpu.stat").read_text())["usage_usec"] / 1e6,
        memory=max(used - stat.get("inactive_file", 0), 0),
        swap=int(swap.read_text()) if swap.exists() else 0,
    )


def _pairs(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def freeze(name: str) -> None:
    """Freeze all processes of a running container.

    On cgroup v1, a process that waits for its vfork child while that child freezes stays unfrozen, and the state
    remains FREEZING. Each further write visits all processes again; lxc-freeze writes only once and then hangs.

    Raises TimeoutError when a process is still not frozen after 30 s; all processes run again then.
    """
    until = time.monotonic() + _FREEZE
    while True:
        _file(name, "cgroup.freeze" if v2() else "freezer.state").write_text("1" if v2() else "FROZEN")
        if _frozen(name):
            return
        if time.monotonic() > until:
            thaw(name)
            raise TimeoutError(f"a process of cgroup {name} does not freeze")
        time.sleep(0.01)


def _frozen(name: str) -> bool:
    if v2():
        return _pairs(_file(name, "cgroup.events").read_text())["frozen"] == 1
    return _file(name, "freezer.state").read_text().strip() == "FROZEN"


def thaw(name: str) -> None:
    """Let the processes of a frozen container run again; does nothing to others."""
    file = _file(name, "cgroup.freeze" if v2() else "freezer.state")
    if file.exists():
        file.write_text("0" if v2() else "THAWED")


def exists(name: str) -> bool:
    """Check that a cgroup exists; a stopped container has none."""
    return (ROOT / name if v2() else ROOT / "pids" / name).is_dir()


def clean(name: str) -> None:
    """Kill the processes in all cgroups with a name that matches a regular expression, and remove these cgroups."""

    def inside() -> list[int]:
        return [int(pid) for folder in _folders(name) for pid in (folder / "cgroup.procs").read_text().split()]

    kill_all(inside, f"the processes in cgroup {name}")
    for folder in _folders(name):
        folder.rmdir()


def _folders(name: str) -> list[Path]:
    """Return the matching cgroups, their monitors' and all cgroups below them, deepest first."""
    tops = [
        top
        for pattern in ("homelab-*", "*/homelab-*")
        for top in ROOT.glob(pattern)
        if top.is_dir() and re.fullmatch(f"{name}(-monitor)?", top.name)
    ]
    every = {folder for top in tops for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]}
    return sorted(every, key=lambda folder: len(folder.parts), reverse=True)
