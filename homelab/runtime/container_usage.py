"""The processor, memory and disk use of a container, read from inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from homelab.host import UNREADABLE, Result

# The control group has the container's own values; its limit is visible only on some nodes. On Proxmox, /proc/meminfo
# has them as well.
USAGE = r"""
cd /sys/fs/cgroup
echo "at $(date +%s%N)"
awk '/^usage_usec/ { print "cpu", $2 * 1000 }' cpu.stat 2>/dev/null || echo "cpu $(cat cpu,cpuacct/cpuacct.usage)"
for limit in memory.max memory/memory.limit_in_bytes; do [ ! -r $limit ] || echo "limit $(cat $limit)"; done
for used in memory.current memory/memory.usage_in_bytes; do [ ! -r $used ] || echo "used $(cat $used)"; done
awk '$1 ~ /^(total_)?inactive_file$/ { print "cache", $2 }' memory.stat memory/memory.stat 2>/dev/null
awk '/^MemTotal/ { print "total", $2 * 1024 } /^MemAvailable/ { print "available", $2 * 1024 }' /proc/meminfo
df -Pk / | awk 'NR == 2 { print "disk", $3 * 1024; print "disk_total", ($3 + $4) * 1024 }'
true
"""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """The use of a container: `at` and `cpu` (used processor time) in nanoseconds, all others in bytes."""

    at: int
    cpu: int
    memory: int
    memory_total: int
    disk: int
    disk_total: int

    @classmethod
    def parse(cls, answer: Result) -> Self | None:
        """Return the answer to `USAGE`; None if it has another format."""
        try:
            found: dict[str, int] = {}
            for line in answer.text.splitlines():
                name, number = line.split()
                if number != "max":
                    found[name] = int(float(number))
            total = found["total"]
            if found.get("limit", total) < total:
                memory, total = found["used"] - found.get("cache", 0), found["limit"]
            else:
                memory = total - found["available"]
            return cls(found["at"], found["cpu"], max(memory, 0), total, found["disk"], found["disk_total"])
        except UNREADABLE:
            return None

    def cpu_since(self, before: Self | None, cores: int) -> float | None:
        """Return the use of all cores since an earlier reading, from 0 to 1; None without one."""
        if before is None or self.at <= before.at or self.cpu < before.cpu or not cores:
            return None
        return min((self.cpu - before.cpu) / (self.at - before.at) / cores, 1.0)
