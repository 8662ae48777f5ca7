"""Every client of PostgreSQL against servers that pretend to be PostgreSQL, and against the real one.

The clients have the environment files of a deploy, with another port and with the CA at another path.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homelab.certificates import Authority, Names
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext
from homelab.paths import bundled_path
from homelab.render import render
from homelab.runtime.convergence import steps_of
from homelab.services.airflow_metadata import DATABASE_ENVIRONMENT
from homelab.services.lab_certificates import CA_FILE, container_names, lab_names
from homelab.services.postgres import contents, hba
from homelab.steps import File
from tests.integration import pg
from tests.integration.conftest import KEY, Replay
from tests.integration.impostor import impostor
from tests.scripts import IN_CONTAINER, SCRIPTS
from tests.support import FixedSecretStore, LocalHost

# All containers on loopback: every client connects from the address that it connects to.
OVERLAY = """
network: {subnet: 127.0.0.0/24, gateway: .254}
containers: {postgres-data: {ip: .1}, analytics-platform: {ip: .2}, airflow-orchestration: {ip: .3}}
"""
DUCKDB = """
import duckdb, os
connection = duckdb.connect(config={"extension_directory": os.environ["EXTENSIONS"]})
connection.load_extension("postgres_scanner")
connection.execute("attach '' as pg (type postgres, read_only)")
tls = "select version from pg_stat_ssl where pid = pg_backend_pid()"
print(connection.execute("from postgres_query('pg', ?)", [tls]).fetchall())
"""
# Airflow hands the query of this URL to asyncpg, which knows no sslmode there.
URL = "os.environ['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'].replace('+psycopg2', '')"
TLS_VERSION = "select version from pg_stat_ssl where pid = pg_backend_pid()"
ASYNCPG = f"""
import asyncio, asyncpg, os
async def version():
    connection = await asyncpg.connect({URL}, timeout=20)
    return await connection.fetchval("{TLS_VERSION}")
print(asyncio.run(version()))
"""
LIBPQ = f"""
import os, psycopg
with psycopg.connect({URL}) as connection:
    print(connection.execute("{TLS_VERSION}").fetchone())
"""


@dataclass(frozen=True)
class Client:
    """A client: the paths of its environment files in the container, and its words after the interpreter."""

    environment: tuple[str, ...]
    words: tuple[str, ...]
    program: str = "analytics"


PIPELINE = (f"{IN_CONTAINER}/pipeline.env",)
AIRFLOW = ("/etc/homelab/airflow.env", "/etc/homelab/airflow-secrets.env")
CLIENTS = {
    "ingestion": Client(PIPELINE, (str(SCRIPTS / "ingest_weather.py"),)),
    "build": Client(PIPELINE, (str(SCRIPTS / "dbt_build.py"), "--data", ".", "--profiles", ".")),
    "corrections": Client(PIPELINE, (str(SCRIPTS / "exclusions.py"), "list")),
    "DuckDB": Client(PIPELINE, ("-c", DUCKDB)),
    "Airflow's asyncpg": Client(AIRFLOW, ("-c", ASYNCPG), "tests"),
    "Airflow's libpq": Client(AIRFLOW, ("-c", LIBPQ), "tests"),
    "psql of the probes": Client((DATABASE_ENVIRONMENT,), ("-XAtc", TLS_VERSION), "psql"),
}


@dataclass(frozen=True)
class Deployed:
    """The files that a deploy installs, and the lab's CA."""

    inventory: Inventory
    context: ServiceContext  # of PostgreSQL's container
    files: Mapping[str, bytes]

    @property
    def authority(self) -> Authority:
        """The lab's CA."""
        return self.context.secret_store.authority(self.inventory.lab, lab_names(self.inventory))

    def names(self, service: str = "postgres") -> Names:
        """Return the names of a service's container."""
        return container_names(self.inventory.container_with(service))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text(KEY)
    overlay = f"{OVERLAY}pipelines: {{weather: {{api_key_file: {folder / 'key'}, cities: ['Newark,US']}}}}\n"
    (folder / "overlay.yaml").write_text(overlay)
    inventory = load([bundled_path("inventory.yaml"), folder / "overlay.yaml"])
    contexts = [
        ServiceContext(
            inventory=inventory,
            container=container,
            secret_store=FixedSecretStore(),
            host_keys={"analytics-platform": "ssh-ed25519 AAAAHost"},
        )
        for container in inventory.containers
    ]
    files = {step.path: step.content for each in contexts for step in steps_of(each) if isinstance(step, File)}
    return Deployed(inventory, contexts[0], files)


@dataclass(frozen=True)
class Clients:
    """The clients with the files of a deploy, in a folder; `extra` replaces variables of their environments."""

    folder: Path
    deployed: Deployed
    programs: Mapping[str, str]
    extra: dict[str, str]

    def _installed(self, path: str) -> Path:
        """Write an environment file, and those that it reads, into the folder; return its path."""
        text = self.deployed.files[path].decode().replace(CA_FILE, str(self.folder / "ca.crt"))
        for other in re.findall(r"^\. (\S+)", text, re.MULTILINE):
            text = text.replace(other, str(self._installed(other)))
        installed = self.folder / Path(path).name
        installed.write_text(text)
        return installed

    def run(self, name: str, port: int) -> subprocess.CompletedProcess[str]:
        """Run a client as in its container, with PostgreSQL on this port."""
        client = CLIENTS[name]
        read = "".join(f". {self._installed(path)}; " for path in client.environment)
        # The scripts are those of the checkout.
        checkout = {"PYTHONPATH": os.environ["PYTHONPATH"]}
        further = {"PGPORT": str(port), "WEATHER_DATA": str(self.folder), **checkout, **self.extra}
        settings = "; ".join(f"{key}={shlex.quote(value)}" for key, value in further.items())
        words = shlex.join([self.programs[client.program], *client.words])
        return subprocess.run(
            ["sh", "-c", f"set -a; {read}{settings}; exec {words}"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )


@pytest.fixture
def clients(
    deployed: Deployed, postgres: pg.Server, analytics_python: Path, extensions: Path, replay: Replay, tmp_path: Path
) -> Clients:
    (tmp_path / "ca.crt").write_bytes(deployed.files[CA_FILE])
    profiles = render(
        "pipelines/profiles.yml.j2",
        profile="weather",
        warehouse=str(tmp_path / "warehouse.duckdb"),
        threads=1,
        extension_directory=str(extensions),
        memory_limit="1GB",
    )
    (tmp_path / "profiles.yml").write_bytes(profiles)
    programs = {"analytics": str(analytics_python), "tests": sys.executable, "psql": postgres.program("psql")}
    extra = {"EXTENSIONS": str(extensions), "OPENWEATHER_BASE_URL": replay.url}
    return Clients(tmp_path, deployed, programs, extra)


# The impostors, and the errors of libpq and asyncpg.
IMPOSTORS = {
    "without TLS": "server does not support SSL|rejected SSL upgrade",
    "with another CA's certificate": "certificate verify failed",
    "with another container's certificate": 'server certificate for "analytics-platform"|certificate is not valid for',
    "with an expired certificate": "certificate verify failed",
}


def certificate_of(kind: str, lab: Deployed) -> str | None:
    match kind:
        case "with another CA's certificate":
            return Authority.create(lab.inventory.lab, lab_names(lab.inventory)).issue(lab.names())
        case "with another container's certificate":
            return lab.authority.issue(lab.names("analytics"))
        case "with an expired certificate":
            return lab.authority.issue(lab.names(), datetime.now(UTC) - timedelta(days=900))
    return None


@pytest.mark.parametrize("kind", IMPOSTORS)
@pytest.mark.parametrize("name", CLIENTS)
def test_impostor_gets_no_password_and_the_error_names_the_certificate(clients: Clients, name: str, kind: str) -> None:
    with impostor(certificate_of(kind, clients.deployed)) as fake:
        done = clients.run(name, fake.port)
    assert fake.connections, done.stderr
    assert (fake.logins, fake.passwords) == ([], [])
    assert re.search(IMPOSTORS[kind], done.stdout + done.stderr), done.stdout + done.stderr
    assert name == "ingestion" or done.returncode != 0


@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "Airflow's asyncpg"])  # it knows no require_auth
def test_libpq_never_sends_a_password_in_clear_text(clients: Clients, name: str) -> None:
    with impostor(clients.deployed.authority.issue(clients.deployed.names())) as fake:
        done = clients.run(name, fake.port)
    assert fake.logins, done.stderr
    assert fake.passwords == []


@pytest.fixture(scope="module")
def server(deployed: Deployed) -> Iterator[pg.Server]:
    """A server with the roles and pg_hba.conf of a deploy, and the lab's certificate."""
    with pg.server() as running:
        running.enable_tls(deployed.authority.issue(deployed.names()))
        words = [f"{key}={value}" for key, value in running.environment("postgres").items() if key != "PGDATABASE"]
        psql = shlex.join(["env", *words, running.program("psql")])
        for step in contents(deployed.context, psql):
            step.apply(LocalHost())
        rules = hba(deployed.context).decode()  # on loopback, all clients have one address
        (running.data / "pg_hba.conf").write_text(re.sub(r"127\.0\.0\.[23]/32", "127.0.0.1/32", rules))
        running.reload()
        yield running


@pytest.mark.parametrize("name", CLIENTS)
def test_client_logs_in_to_the_real_server_over_tls(clients: Clients, server: pg.Server, name: str) -> None:
    done = clients.run(name, server.port)
    assert done.returncode == 0, done.stdout + done.stderr
    if name not in ("ingestion", "build", "corrections"):
        assert "TLSv1.3" in done.stdout


def test_server_refuses_a_connection_without_tls(clients: Clients, server: pg.Server) -> None:
    clients.extra.update(PGSSLMODE="disable", PGCHANNELBINDING="disable")
    done = clients.run("psql of the probes", server.port)
    assert "no encryption" in done.stderr, done.stderr
