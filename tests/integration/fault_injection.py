"""Fault injection into the commands of a deploy, and a comparison of containers' complete states."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.ssh import Ssh
from homelab.steps.batching import NOW
from homelab.steps.remote_paths import lock

KINDS = ("kill", "reboot", "cli", "cut")
_LONG = 2.0  # seconds; longer commands are interrupted several times, at different moments
_SHORT = 0.05  # assumed duration in seconds of a command that was not measured

# All processes of the running command: those that hold our lock, and their descendants.
KILL = rf"""roots=$(find /proc/[0-9]*/fd -lname {lock()} 2>/dev/null | cut -d/ -f3 | sort -u)
[ -z "$roots" ] || kill -9 $(ps -eo pid=,ppid= | awk -v roots="$(echo $roots)" '
    BEGIN {{ n = split(roots, r); for (i = 1; i <= n; i++) dies[r[i]] = 1 }}
    {{ parent[$1] = $2 }}
    END {{ do {{ more = 0; for (p in parent) if (!(p in dies) && (parent[p] in dies)) {{ dies[p] = 1; more = 1 }} }}
          while (more); for (p in dies) print p }}')"""


def key(host: str, command: str, stdin: bytes) -> str:
    """Return a key of a changing command that is the same in every run. Manifest updates share one key."""
    text = "write the manifest" if "mv -fT manifest.new /var/lib/homelab/manifest" in command else command
    if "psql" in command:
        sql = gzip.decompress(stdin) if stdin.startswith(b"\x1f\x8b") else stdin
        text += re.sub(r"SCRAM-SHA-256\$[^']*", "", sql.decode())  # without the hash, which contains a salt
    return f"{host} {hashlib.sha256(text.encode()).hexdigest()[:12]} {_named(command)}"


def _named(command: str) -> str:
    """Return the longest line of the command in a script of LockedHost."""
    lines = command.partition("\n{\n")[2].partition("\n}\nend-")[0].splitlines() or [command]
    return max(lines, key=len).strip()[:160]


@dataclass
class FaultPlan:
    """The plan of faults: the commands interrupted so far, in all processes, and the next faults."""

    log: Path
    kinds: Sequence[str] = ()  # empty: inject nothing, and measure the commands' durations
    seed: int = 5
    times: int = 3  # number of faults in a long command
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def interrupted(self) -> list[str]:
        """Return the keys of the interrupted commands, one per fault."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def next_fault(self, name: str, several: bool) -> str | None:
        """Return the fault for this run of a command, or None. Commands of `several` steps get several faults."""
        with self._lock:
            before = self.interrupted().count(name)
            if not self.kinds or before >= (self.times if self.seconds.get(name, 0) > _LONG or several else 1):
                return None
            with self.log.open("a") as file:
                file.write(f"{name}\n")
            return self.random_for(name, before).choice(self.kinds)

    def random_for(self, name: str, before: int) -> random.Random:
        """Return a random generator that is the same for the same command and attempt."""
        return random.Random(f"{self.seed} {name} {before}")  # noqa: S311

    def delay(self, name: str) -> float:
        """Return the seconds until the fault, a random part of the command's duration."""
        return self.random_for(name, -len(self.interrupted())).uniform(0, self.seconds.get(name, _SHORT))


class FaultInjectingHost:
    """A host over SSH with faults in the commands that change something."""

    def __init__(self, host: Ssh, fate: FaultPlan) -> None:
        self.name, self.batch, self.reconnect, self.close = host.name, host.batch, host.reconnect, host.close
        self._host, self._fate = host, fate

    def __enter__(self) -> FaultInjectingHost:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run. Commands that only read or wait get no faults."""
        if "flock --timeout 5 9" not in command:
            return self._host.run(command, stdin=stdin, timeout=timeout)
        name, started = key(self.name, command, stdin), time.monotonic()
        how = self._fate.next_fault(name, several=NOW in command)
        try:
            with _delayed(self._fate.delay(name), getattr(self, f"_{how}")) if how else nullcontext():
                return self._host.run(command, stdin=stdin, timeout=timeout)
        finally:
            if how == "cli":
                time.sleep(60)  # the command ended before the kill: wait for it
            if not self._fate.kinds:
                self._fate.seconds[name] = time.monotonic() - started

    def _cli(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _cut(self) -> None:
        self._host.close()

    def _kill(self) -> None:
        with suppress(HomelabError):
            self._host.run(KILL, timeout=30)

    def _reboot(self) -> None:
        with suppress(HomelabError):
            self._host.run("systemctl reboot --force --force", timeout=10)


class _delayed:
    """Run an action after some seconds, at the latest at the end of the block."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, act)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.join(60)


# The paths that are not compared, and why.
ELSEWHERE = {
    "/var/log": "logs",
    "/var/cache": "caches",
    "/root/.cache": "caches",
    "/home/*/.cache": "caches",
    "/tmp": "temporary, emptied at each boot",
    "/var/tmp": "temporary, aged by systemd",
    "/var/lib/apt/lists": "apt's lists, copies of the mirror's",
    "/var/backups": "earlier states of dpkg",
    "/var/lib/ucf/*.[0-9]": "ucf's lists before each of its runs, of which a killed dpkg causes one more",
    "/etc/rc?.d": "System V's links: update-rc.d keeps existing ones, and services with a unit do not need them",
    "/var/lib/apt/extended_states.??????": "temporary file of a killed apt, which it never reads again",
    "/var/lib/dpkg/tmp.ci": "scripts unpacked by a killed dpkg, removed when the next package is unpacked",
    "/var/lib/systemd": "seeds, and the last runs of timers",
    "/var/lib/postgresql/*/main": "data: compared by SQL",
    "/opt/analytics-platform/pipelines/weather/data": "data of the pipeline",
    "/var/lib/airflow/logs": "logs",
}
OTHERWISE = {
    r"/etc/(machine-id|ssh/ssh_host_(rsa|ecdsa)_key(\.pub)?)": "generated with the container",
    r"/var/lib/dbus/machine-id": "generated with the container",
    r"/etc/ssl/(private|certs)/ssl-cert-snakeoil\.(key|pem)": "random, generated when ssl-cert is installed",
    r"(/var/lib/homelab/written)?/etc/ssl/homelab/postgres\.pem": "each certificate has a new key, and a new hash",
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-": "the content before the last change",
    r"/var/lib/dpkg/(status|status-old|available|diversions-old|statoverride-old)": "compared by dpkg-query",
    r"/var/lib/apt/extended_states": "compared by apt-mark",
    r"/etc/ld\.so\.cache": "a cache",
    r"/var/lib/airflow/airflow\.cfg": "Airflow writes random keys into it; the rest is compared",
    r"/opt/.*/site-packages/dbt/((adapters|include)/)?__init__\.py": "in several wheels, which uv unpacks in parallel",
}

_PRUNED = " -o ".join(f"-path '{path}'" for path in [*ELSEWHERE, "*/__pycache__"])
_FIND = rf"find / -xdev \( {_PRUNED} \) -prune -o"
_SQL = """set -f; cd /; as() { runuser -u postgres -- "$@"; }
command -v pg_lsclusters >/dev/null || exit 0
as pg_dumpall --globals-only --no-role-passwords
for each in $(as psql -qAtc "select datname from pg_database where datallowconn and not datistemplate order by 1"); do
    as pg_dump --schema-only $each | sed "s/^/$each: /"
done
as psql -d airflow_metadata -qAtf - <<'SQL' || true
select 'version', version_num from alembic_version;
select 'role', r.name, count(*) from ab_role r join ab_permission_view_role x on x.role_id = r.id group by 2 order by 2;
select 'user', u.username, u.email, r.name from ab_user u join ab_user_role x on x.user_id = u.id
    join ab_role r on r.id = x.role_id order by 2, 4;
SQL
"""
_PARTS = {
    "packages": "dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n'; apt-mark showauto | sed 's/^/auto /'",
    "unit files": "systemctl list-unit-files --no-legend --no-pager --plain",
    "units": "systemctl list-units --state=active,failed --type=service,socket,timer --no-legend --no-pager --plain | "
    "awk '{print $1, $3, $4}' | grep -Ev '^(user|user-runtime-dir|apt-daily|dpkg-db-backup)'",
    "databases": f"{{ {_SQL} }} 2>/dev/null | grep -Ev '(^|: )(--|$|.(un)?restrict )' | sort",
    "airflow.cfg": "sed -E '/^[a-z_]*(key|secret) = /d' /var/lib/airflow/airflow.cfg | sha256sum",
    "listening": "ss -Hltn | awk '{print $4}' | sort -u",
}


def state(host: Host) -> dict[str, str]:
    """Return a container's state: each file with type, owner, mode and content, each package, unit, database object."""
    found: dict[str, str] = {}
    listed = check(host, rf"{_FIND} -printf '%M %u:%g %l\t%p\0'", "read the state")
    for line in filter(None, listed.stdout.decode(errors="replace").split("\0")):
        attributes, _, path = line.partition("\t")
        found[_timeless(path)] = attributes
    hashes = check(host, rf"{_FIND} -type f -print0 | xargs -0r sha256sum -z", "read the state", timeout=300)
    for line in filter(None, hashes.stdout.decode(errors="replace").split("\0")):
        path = _timeless(line[66:])
        if not any(re.fullmatch(pattern, path) for pattern in OTHERWISE):
            found[path] += f" {line[:64]}"
    for part, command in _PARTS.items():
        for line in host.run(command, timeout=120).text.splitlines():
            found[f"{part}: {line}"] = "present"
    return found


def _timeless(path: str) -> str:
    """Replace the time in the path of a kept original, so that only its existence is compared."""
    return re.sub(r"(/homelab/replaced/.*)/\d{8}T\d{6}Z", r"\1/MOMENT", path)


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """Yield one line per difference."""
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            yield f"{name}: {wanted.get(name, 'missing')} → {found.get(name, 'missing')}"
