"""Real resource usage of the containers and this machine, for the node's API."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from homelab.lab import cgroups
from homelab.lab.lxc import Runtime
from homelab.lab.process import stat_of

_DISK_EVERY = 60  # seconds between two measurements of a root, which read all its folders
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU seconds used up to a time of the monotonic clock."""

    at: float
    cpu: float


def share(before: Sample, now: Sample, cpus: int) -> float:
    """Return the fraction of its CPUs that a container used between two samples; 1 is all of them."""
    elapsed = now.at - before.at
    return max(now.cpu - before.cpu, 0) / elapsed / cpus if elapsed > 0 else 0.0


def started_at(pid: int) -> float:
    """Return a process's start time in seconds since the epoch."""
    stat = stat_of(pid)
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (up - stat.started / _TICKS if stat else 0)


@dataclass(slots=True)
class Measure:
    """Resource usage of containers, with the samples that rates are computed from."""

    runtime: Runtime
    _inits: dict[int, int] = field(default_factory=dict)
    _samples: dict[int, tuple[Sample, float]] = field(default_factory=dict)
    _disks: dict[int, tuple[float | None, int]] = field(default_factory=dict)

    def watch(self, vmid: int, pid: int) -> None:
        """Record a container's init, so that `alive` can detect another process with the same pid."""
        stat = stat_of(pid)
        self._inits[vmid] = stat.started if stat else 0

    def alive(self, vmid: int, pid: int) -> bool:
        """Check that the recorded init still runs, with one read of /proc."""
        stat = stat_of(pid)
        return stat is not None and stat.started == self._inits.get(vmid)

    def container(self, vmid: int, cpus: int) -> dict[str, float | int]:
        """Measure the CPU share, memory, swap and network bytes of a running container."""
        usage = cgroups.usage(self.runtime.lab.cgroup(vmid))
        now = Sample(time.monotonic(), usage.cpu)
        before, last = self._samples.get(vmid, (now, 0.0))
        # Requests within the same second get the previous rate: the interval is too short for a new one.
        if now.at - before.at >= 1 or vmid not in self._samples:
            last = share(before, now, cpus)
            self._samples[vmid] = (now, last)
        return {"cpu": last, "mem": usage.memory, "swap": usage.swap, **self._traffic(vmid)}

    def _traffic(self, vmid: int) -> dict[str, int]:
        counters = Path("/sys/class/net") / self.runtime.veth(vmid, 0) / "statistics"
        if not counters.is_dir():
            return {}
        # The host's end counts in the other direction: it receives the bytes that the container sends.
        return {"netin": int((counters / "tx_bytes").read_text()), "netout": int((counters / "rx_bytes").read_text())}

    def disk(self, vmid: int) -> tuple[int, bool]:
        """Return the bytes in the container's root at the last measurement, and whether that is recent enough."""
        at, used = self._disks.get(vmid, (None, 0))
        fresh = at is not None and time.monotonic() - at < _DISK_EVERY
        # The caller measures a stale value again; reset the time, so that no other caller does the same meanwhile.
        self._disks[vmid] = (at if fresh else time.monotonic(), used)
        return used, fresh

    def measure_disk(self, vmid: int) -> None:
        """Measure the container's root; takes seconds."""
        self._disks[vmid] = (time.monotonic(), folder_size(self.runtime.root(vmid)))

    def forget(self, vmid: int) -> None:
        """Drop the samples of a removed container."""
        for known in (self._inits, self._samples, self._disks):
            known.pop(vmid, None)


def folder_size(folder: Path) -> int:
    """Return the bytes that a folder takes on disk; folders deleted meanwhile are skipped."""
    total, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
        except FileNotFoundError:
            continue
    return total


def machine() -> dict[str, float | int]:
    """Measure this machine for the node's status."""
    memory = {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()
    }
    disk = os.statvfs("/")
    cpus = os.cpu_count() or 1
    return {
        "cpu": min(os.getloadavg()[0] / cpus, 1.0),
        "maxcpu": cpus,
        "maxmem": memory["MemTotal"],
        "mem": memory["MemTotal"] - memory["MemAvailable"],
        "maxdisk": disk.f_blocks * disk.f_frsize,
        "disk": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        "uptime": int(float(Path("/proc/uptime").read_text().split()[0])),
    }
