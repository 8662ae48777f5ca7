"""Ways to cut a deploy off in the middle of its commands, and what a container is in the end, part by part."""

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
_LONG = 2.0  # seconds: what takes longer is cut off several times, at different moments
_SHORT = 0.05  # seconds that a command takes of which we do not know it

# All processes of the command that is going on: those that hold our lock, and what they have started.
_KILL = rf"""roots=$(find /proc/[0-9]*/fd -lname {lock()} 2>/dev/null | cut -d/ -f3 | sort -u)
[ -z "$roots" ] || kill -9 $(ps -eo pid=,ppid= | awk -v roots="$(echo $roots)" '
    BEGIN {{ n = split(roots, r); for (i = 1; i <= n; i++) dies[r[i]] = 1 }}
    {{ parent[$1] = $2 }}
    END {{ do {{ more = 0; for (p in parent) if (!(p in dies) && (parent[p] in dies)) {{ dies[p] = 1; more = 1 }} }}
          while (more); for (p in dies) print p }}')"""


def key(host: str, command: str, stdin: bytes) -> str:
    """Return the name of a changing command, the same in every run; notes differ only in their markers."""
    text = "write the manifest" if "mv -fT manifest.new /var/lib/homelab/manifest" in command else command
    if "psql" in command:
        sql = gzip.decompress(stdin) if stdin.startswith(b"\x1f\x8b") else stdin
        text += re.sub(r"SCRAM-SHA-256\$[^']*", "", sql.decode())  # which has a salt
    return f"{host} {hashlib.sha256(text.encode()).hexdigest()[:12]} {_named(command)}"


def _named(command: str) -> str:
    """Return the longest line of the command in a script of LockedHost."""
    lines = command.partition("\n{\n")[2].partition("\n}\nend-")[0].splitlines() or [command]
    return max(lines, key=len).strip()[:160]


@dataclass
class FaultPlan:
    """Which commands have been cut off by now, over all processes, and how each of them is."""

    log: Path
    kinds: Sequence[str] = ()  # without any, nothing is cut off, and what commands take is learned
    seed: int = 5
    times: int = 3  # that a long command is cut off
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def met(self) -> list[str]:
        """The keys of all that was cut off, as often as it was."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def meets(self, name: str, several: bool) -> str | None:
        """How this command is cut off, this time; None if it is left in peace. `several` steps are many moments."""
        with self._lock:
            before = self.met().count(name)
            if not self.kinds or before >= (self.times if self.seconds.get(name, 0) > _LONG or several else 1):
                return None
            with self.log.open("a") as file:
                file.write(f"{name}\n")
            return self.chance(name, before).choice(self.kinds)

    def chance(self, name: str, before: int) -> random.Random:
        """The same for the same command and time."""
        return random.Random(f"{self.seed} {name} {before}")  # noqa: S311

    def moment(self, name: str) -> float:
        """Seconds after which it is cut off: a random part of what it takes."""
        return self.chance(name, -len(self.met())).uniform(0, self.seconds.get(name, _SHORT))


class FaultInjectingHost:
    """A host over SSH on which commands that change something are cut off as Fate has it."""

    def __init__(self, host: Ssh, fate: FaultPlan) -> None:
        self.name, self.batch, self.reconnect, self.close = host.name, host.batch, host.reconnect, host.close
        self._host, self._fate = host, fate

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run. What only looks or waits is left in peace."""
        if "flock --timeout 5 9" not in command:
            return self._host.run(command, stdin=stdin, timeout=timeout)
        name, started = key(self.name, command, stdin), time.monotonic()
        how = self._fate.meets(name, several=NOW in command)
        try:
            with _ending(self._fate.moment(name), getattr(self, f"_{how}")) if how else nullcontext():
                return self._host.run(command, stdin=stdin, timeout=timeout)
        finally:
            if how == "cli":
                time.sleep(60)  # it ended before we did
            if not self._fate.kinds:
                self._fate.seconds[name] = time.monotonic() - started

    def _cli(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _cut(self) -> None:
        self._host.close()

    def _kill(self) -> None:
        with suppress(HomelabError):
            self._host.run(_KILL, timeout=30)

    def _reboot(self) -> None:
        with suppress(HomelabError):
            self._host.run("systemctl reboot --force --force", timeout=10)


class _ending:
    """Does it some time later, at the latest when the block has ended."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._timer = threading.Timer(seconds, act)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.join(60)


# What is not compared, and why.
ELSEWHERE = {
    "/var/log": "logs",
    "/var/cache": "caches",
    "/root/.cache": "caches",
    "/home/*/.cache": "caches",
    "/tmp": "temporary, emptied at each boot",
    "/var/tmp": "temporary, aged by systemd",
    "/var/lib/apt/lists": "apt's lists, as the mirror has them",
    "/var/backups": "what dpkg looked like before",
    "/var/lib/ucf/*.[0-9]": "ucf's lists before each time it was run, which is once more after dpkg was killed",
    "/etc/rc?.d": "System V's links: update-rc.d leaves them as it finds them, and nothing that has a unit needs them",
    "/var/lib/apt/extended_states.??????": "what apt was writing as it was killed; it never looks at it again",
    "/var/lib/dpkg/tmp.ci": "what dpkg had unpacked of a package's own scripts; it goes as the next one is unpacked",
    "/var/lib/systemd": "seeds, and when timers last ran",
    "/var/lib/postgresql/*/main": "data: asked by SQL",
    "/opt/analytics-platform/data": "data of the pipeline",
    "/home/airflow/airflow/logs": "logs",
}
OTHERWISE = {
    r"/etc/(machine-id|ssh/ssh_host_(rsa|ecdsa)_key(\.pub)?)": "made anew with the container",
    r"/var/lib/dbus/machine-id": "made anew with the container",
    r"/etc/ssl/(private|certs)/ssl-cert-snakeoil\.(key|pem)": "made by chance as ssl-cert is installed",
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-": "what stood there before the last change",
    r"/var/lib/dpkg/(status|status-old|available|diversions-old|statoverride-old)": "asked by dpkg-query",
    r"/var/lib/apt/extended_states": "asked by apt-mark",
    r"/etc/ld\.so\.cache": "a cache",
    r"/home/airflow/airflow/airflow\.cfg": "Airflow puts keys made by chance into it; the rest is compared",
    r"/opt/.*/site-packages/dbt/((adapters|include)/)?__init__\.py": "in several wheels, which uv unpacks side by side",
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
    "airflow.cfg": "sed -E '/^[a-z_]*(key|secret) = /d' /home/airflow/airflow/airflow.cfg | sha256sum",
    "listening": "ss -Hltn | awk '{print $4}' | sort -u",
}


def state(host: Host) -> dict[str, str]:
    """All that a container is: each file with its type, owner, mode and content, package, unit, database object."""
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
            found[f"{part}: {line}"] = "there"
    return found


def _timeless(path: str) -> str:
    """What was replaced is kept by the moment; that differs, and whether it is kept must not."""
    return re.sub(r"(/homelab/replaced/.*)/\d{8}T\d{6}Z", r"\1/MOMENT", path)


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """A line for each part that is not the same."""
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            yield f"{name}: {wanted.get(name, 'not there')} → {found.get(name, 'not there')}"
