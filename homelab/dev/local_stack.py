"""The pipeline's parts while `homelab dev` works: PostgreSQL and the weather's replay, on loopback.

Both are children of this process, and the kernel ends them when it dies, however it dies.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from homelab.dev.install import Installed
from homelab.dev.local_postgres import SETTINGS, Cluster, as_server_user, free_port, given
from homelab.errors import HomelabError
from homelab.lab.observations import PLACES
from homelab.lab.process import wait_until
from homelab.model import DatabaseGrant
from homelab.paths import bundled_path
from homelab.private_files import private_folder
from homelab.render import render
from homelab.services.postgres import grants

CITIES = tuple(f"{place.name},US" for place in PLACES)
DATABASE = "project_data"
_ROOTS = Path("/var/lib/homelab-dev")
_PATIENCE = 30  # seconds
_DATABASE = r"""
select 'create role analytics login' where not exists (select from pg_roles where rolname = 'analytics') \gexec
select 'create role dbt login' where not exists (select from pg_roles where rolname = 'dbt') \gexec
alter role analytics password :'password';
alter role dbt password :'password';
select 'create database project_data' where not exists (select from pg_database where datname = 'project_data') \gexec
revoke all on database project_data from public;
\connect project_data
"""


def folder_of(state_dir: Path) -> Path:
    """Where all of it is kept: below the inventory's state folder; root's elsewhere.

    PostgreSQL refuses to be root, and the user that it becomes cannot pass through root's private folders.
    """
    if os.geteuid() != 0:
        return state_dir / "dev"
    return _ROOTS / sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]


def make(folder: Path) -> None:
    """Make the folder, which others can pass through as far as the server's user has to."""
    if os.geteuid() != 0:
        private_folder(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    for each in (_ROOTS, folder) if os.geteuid() == 0 else (folder,):
        each.chmod(0o711)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)


def remove(folder: Path) -> None:
    """Remove all of it, the data too."""
    shutil.rmtree(folder)
    if folder.parent == _ROOTS and not any(_ROOTS.iterdir()):
        _ROOTS.rmdir()


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, and how the pipeline's scripts find it."""

    folder: Path
    installed: Installed
    cluster: Cluster
    weather: str = ""  # the replay's URL
    key: str = ""

    @property
    def data(self) -> Path:
        """The folder that the scripts write to."""
        return self.folder / "data"

    def environment(self) -> dict[str, str]:
        """As pipeline.env has it in the container; dbt's role may read, and no more."""
        return {
            **os.environ,
            **self.cluster.environment(DATABASE, "analytics"),
            "DBT_PGUSER": "dbt",
            "DBT_PGPASSWORD": self.cluster.password,
            "WEATHER_DATA": str(self.data),
            "OPENWEATHER_BASE_URL": self.weather,
            "OPENWEATHER_API_KEY": self.key,
            "OPENWEATHER_RATE_LIMIT": "0",
            "OPENWEATHER_UNITS": "imperial",
        }

    def dbt_environment(self) -> dict[str, str]:
        """What dbt itself needs to work on the project, wherever it is called."""
        return {
            **self.environment(),
            **self.cluster.environment(DATABASE, "dbt"),
            "DBT_PROJECT_DIR": str(project()),
            "DBT_PROFILES_DIR": str(self.data),
            "DBT_TARGET_PATH": str(self.data / "target"),
            "DBT_LOG_PATH": str(self.data / "logs"),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }

    def script(self, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one of the pipeline's scripts; it ends with this process."""
        return subprocess.run(
            [
                *_ends_with_us("TERM"),
                str(self.installed.python),
                str(bundled_path("pipeline") / "scripts" / name),
                *words,
            ],
            env={**self.environment(), **environment},
            cwd=self.data,
            capture_output=True,
            text=True,
            check=False,
        )


def project() -> Path:
    """The dbt project."""
    return bundled_path("pipeline") / "dbt" / "analytics_project"


@contextmanager
def running(folder: Path, installed: Installed, weather: bool) -> Iterator[Stack]:
    """Start what is needed, the replay only if `weather` is; all of it has ended with the block.

    Raises HomelabError with the last words of what does not come up.
    """
    profiles = render(
        "analytics/profiles.yml.j2",
        warehouse=str(folder / "data" / "warehouse.duckdb"),
        threads=2,
        extension_directory=str(installed.extensions),
        memory_limit="2GB",
    )
    (folder / "data" / "profiles.yml").write_bytes(profiles)
    with ExitStack() as started:
        cluster = started.enter_context(_postgres(folder, installed.postgres))
        _set_up(cluster)
        if not weather:
            yield Stack(folder, installed, cluster)
            return
        key, port = secrets.token_urlsafe(12), free_port()
        (folder / "key").write_text(key)
        words = [
            sys.executable,
            "-m",
            "homelab.lab.openweather",
            "--host",
            cluster.host,
            "--port",
            str(port),
            "--key-file",
            str(folder / "key"),
            "--state",
            str(folder / "replay.json"),
        ]
        started.enter_context(
            _child("The weather's replay", words, "TERM", folder / "replay.log", lambda: _answers(cluster.host, port))
        )
        yield Stack(folder, installed, cluster, f"http://{cluster.host}:{port}", key)


@contextmanager
def _postgres(folder: Path, home: Path) -> Iterator[Cluster]:
    base, secret = folder / "cluster", folder / "password"
    if not (secret.exists() and (base / "data" / "PG_VERSION").exists()):
        shutil.rmtree(base, ignore_errors=not base.exists())
        base.mkdir()
        given(base).chmod(0o700)
        cluster = Cluster(home, base / "data", free_port(), secrets.token_urlsafe(18))
        cluster.initialise(SETTINGS)
        secret.touch(mode=0o600)
        secret.write_text(cluster.password)
    cluster = Cluster(home, base / "data", free_port(), secret.read_text())
    # One that a killed run has left may be just about to end.
    if (cluster.data / "postmaster.pid").exists():
        subprocess.run(
            [*as_server_user(), cluster.program("pg_ctl"), "stop", "--wait", "-m", "fast", "-D", str(cluster.data)],
            cwd=home,
            capture_output=True,
            check=False,
            timeout=_PATIENCE * 2,
        )
    words = [cluster.program("postgres"), "-D", str(cluster.data), "-p", str(cluster.port)]
    ready = [cluster.program("pg_isready"), "-q", "-h", cluster.host, "-p", str(cluster.port)]
    with _child(
        "PostgreSQL",
        words,
        "INT",
        folder / "postgres.log",
        lambda: subprocess.run(ready, check=False).returncode == 0,
        as_server_user(),
    ):
        yield cluster


def _set_up(cluster: Cluster) -> None:
    """Roles, database, tables and grants as a deploy makes them; what is there already stays."""
    sql = [
        f"\\set password '{cluster.password}'",
        _DATABASE,
        (bundled_path("templates") / "postgres" / "project_data.sql").read_text(),
        grants(DatabaseGrant(DATABASE, "analytics", "append")).sql,
        grants(DatabaseGrant(DATABASE, "dbt", "read")).sql,
    ]
    done = subprocess.run(
        [cluster.program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input="\n".join(sql),
        text=True,
        capture_output=True,
        check=False,
        timeout=_PATIENCE,
        env={**os.environ, **cluster.environment("postgres"), "PGOPTIONS": "-c client_min_messages=warning"},
    )
    if done.returncode:
        raise HomelabError(
            "The database could not be set up",
            done.stderr.strip()[-1500:],
            "If it is of another version: `homelab dev reset` begins anew.",
        )


def _ends_with_us(signal_name: str, user: Sequence[str] = ()) -> list[str]:
    """Words before a command, by which it gets this signal when our process dies, and another user if one is given."""
    return ["setpriv", "--pdeathsig", signal_name, *(user[1:] or ["--"])]


@contextmanager
def _child(
    what: str, words: Sequence[str], ends: str, log: Path, answers: Callable[[], bool], user: Sequence[str] = ()
) -> Iterator[None]:
    """A process that is there, and answers, as long as the block. Ctrl-C on the terminal is not for it."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*_ends_with_us(ends, user), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    try:
        wait_until(lambda: child.poll() is not None or answers(), _PATIENCE)
        if child.poll() is not None or not answers():
            raise HomelabError(
                f"{what} does not come up",
                log.read_text(errors="replace").strip()[-1500:],
                "If that does not tell you: `homelab dev reset` begins anew.",
            )
        yield
    finally:
        child.send_signal(getattr(signal, f"SIG{ends}"))
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
