"""PostgreSQL in an export: the server, and the job that makes roles, databases, tables and grants."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import cast

from homelab.errors import InputError
from homelab.kubernetes.workloads import Claim, Mount, Process, Resources, Retries, Volume, Workload
from homelab.model import Container, Inventory, Pipeline, ServiceContext, Step
from homelab.model.firewall import client_containers
from homelab.model.inventory import DATABASE
from homelab.pipelines.exclusion_view import ExclusionView
from homelab.pipelines.layout import Layout
from homelab.pipelines.schema_step import SchemaVersions
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.services.postgres import Postgres, contents, has_raw
from homelab.services.raw_schema import archive_policy, retention
from homelab.steps import Database, RevokedLogins, Role, Sql

POSTGRES = "postgres"  # the service
SUPERUSER = "kubernetes-postgres"  # the secret with the password of the role `postgres`
CERTIFICATE = "server.pem"  # key and certificate of the server in their Secret
SETUP = "database-setup"
_FOLDER = "/etc/homelab"
_SERVER_FILES = f"{_FOLDER}/postgres"
_TLS, _SUPERUSER, _SQL = "/etc/ssl/homelab-server", "/run/homelab/superuser", f"{_FOLDER}/sql"
_DATA, _SOCKETS = "/var/lib/postgresql/data", "/var/run/postgresql"
_PGDATA = f"{_DATA}/pgdata"  # not the root of the volume, which has a folder of the file system
_USER = 999  # `postgres` in the image of PostgreSQL
# In a folder of its own first, so that a killed run leaves nothing that looks like a cluster.
_INITIALISE = (
    'set -eu; [ ! -e "$PGDATA" ] || exit 0; rm -rf "$PGDATA.new"; '
    'initdb --pgdata="$PGDATA.new" --username=postgres --auth-local=peer --auth-host=scram-sha-256 '
    f'--pwfile={_SUPERUSER}/password --encoding=UTF8 --locale=C.UTF-8; mv "$PGDATA.new" "$PGDATA"'
)
CA_VOLUME = Volume(name="lab-ca", kind="config", source="lab-ca")
CA_MOUNT = Mount(volume="lab-ca", path=CA_FILE, file="ca.crt")
_SMALL = Resources(1, 256)
_LONGEST, _OLDEST = 52, 14


def server_image(version: int) -> str:
    """Return the image of PostgreSQL's own servers and clients."""
    return f"docker.io/library/postgres:{version}"


def certificate_name(container: Container) -> str:
    """Return the name of the Secret with the key and the certificate of a server."""
    return f"{container.name}-certificate"


def server(inventory: Inventory, container: Container, clients: tuple[str, ...]) -> Workload:
    """Return the server, which admits these workloads.

    Its name is that of the container in the inventory: the lab's CA issues certificates for the inventory's names only.
    Raises InputError for a name or a version that cannot be exported.
    """
    service, shape = _options(container), container.shape
    if not container.name[0].isalpha() or len(container.name) > _LONGEST:
        raise InputError(
            f"Cannot export the container {container.name}: its name is no name of a StatefulSet",
            f"Kubernetes wants a letter at its beginning, and at most {_LONGEST} characters.",
            "Rename the container in the inventory.",
        )
    if service.version < _OLDEST:
        raise InputError(
            f"Cannot export PostgreSQL {service.version}: its psql cannot read passwords from variables",
            f"PostgreSQL {_OLDEST} is the oldest version that can be exported.",
            "Upgrade first: docs/how-to/upgrade.md.",
        )
    version = service.version
    resources = Resources(shape.cores, shape.memory)
    environment = {"PGDATA": _PGDATA}
    data = Mount(volume="data", path=_DATA, writable=True)
    scratch = Mount(volume="sockets", path=_SOCKETS, writable=True)
    mount = next((each for each in shape.mounts if each.path == "/var/lib/postgresql"), None)
    return Workload(
        name=container.name,
        kind="server",
        user=_USER,
        processes=(
            Process(
                name="initialise",
                image=server_image(version),
                command=("/bin/sh", "-c", _INITIALISE),
                environment=environment,
                mounts=(data, Mount(volume="superuser", path=_SUPERUSER)),
                resources=resources,
            ),
            Process(
                name=POSTGRES,
                image=server_image(version),
                command=("postgres", "-c", f"config_file={_SERVER_FILES}/postgresql.conf"),
                environment=environment,
                mounts=(
                    data,
                    scratch,
                    Mount(volume="config", path=_SERVER_FILES),
                    Mount(volume="certificate", path=_TLS),
                ),
                resources=resources,
                probe=("pg_isready", "-q", "-h", _SOCKETS),
            ),
        ),
        volumes=(
            Volume(name="data", kind="claim", source="data"),
            Volume(name="sockets", kind="scratch"),
            Volume(name="config", kind="config"),
            Volume(name="certificate", kind="secret", source=certificate_name(container)),
            Volume(name="superuser", kind="secret", keys={SUPERUSER: "password"}),
        ),
        claims=(Claim(name="data", size=mount.size if mount else shape.disk),),
        files={
            "postgresql.conf": render(
                "postgres/postgresql.conf.j2",
                memory=shape.memory,
                certificate=f"{_TLS}/{CERTIFICATE}",
                folder=_SERVER_FILES,
                sockets=_SOCKETS,
            ).decode(),
            "pg_hba.conf": _hba(inventory).decode(),
        },
        port=next(endpoint.port for endpoint in service.endpoints()),
        clients=clients,
    )


def allowed_clients(
    inventory: Inventory, container: Container, runners: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Return the workloads that the server admits: the job, and those of the containers that the firewall admits.

    `runners` are the containers of the inventory that run each workload.
    """
    endpoint = next(iter(container.services[POSTGRES].endpoints()))
    admitted = client_containers(inventory, container, POSTGRES, endpoint)
    names = {each.name for each in (inventory.containers if admitted is None else admitted)} | {container.name}
    return (SETUP, *(name for name, containers in runners.items() if names & set(containers)))


def _options(container: Container) -> Postgres:
    return cast("Postgres", container.services[POSTGRES])


def _hba(inventory: Inventory) -> bytes:
    """Return pg_hba.conf. Pods have no fixed addresses: the NetworkPolicy limits the clients."""
    grants = {(grant.database, grant.role, "all") for _, grant in inventory.database_grants()}
    return render("postgres/pg_hba.conf.j2", rows=[("all", "postgres", "all"), *sorted(grants)])


def setup(context: ServiceContext, pipelines: Sequence[Pipeline]) -> Workload:
    """Return the job that makes the contents of the databases, and the tables of the pipelines with their own roles.

    Each part can run again.
    """
    image = server_image(_options(context.container).version)
    roles = sorted({grant.role for _, grant in context.inventory.database_grants()})
    secrets = {"PGPASSWORD": SUPERUSER, **{_password(role): f"postgres-{role}" for role in roles}}
    files, processes = {"contents.sql": "\n".join(_statements(_contents(context)))}, []
    host = context.container.name
    processes = [_psql("contents", image, "contents.sql", _client(host, "postgres", "postgres"), secrets)]
    for pipeline in pipelines:
        if sql := _tables(pipeline):
            name = object_name(pipeline.name)
            files[f"{name}.sql"] = sql
            client = {**_client(host, DATABASE, pipeline.writer), "PGOPTIONS": f"-csearch_path={pipeline.schema}"}
            password = {"PGPASSWORD": f"postgres-{pipeline.writer}"}
            processes.append(_psql(f"{name}-tables", image, f"{name}.sql", client, password))
    return Workload(
        name=SETUP,
        kind="job",
        user=_USER,
        processes=tuple(processes),
        volumes=(CA_VOLUME, Volume(name="sql", kind="config")),
        files=files,
        retries=Retries(attempts=10, seconds=3600),
    )


def object_name(pipeline: str) -> str:
    """Return the name of a pipeline's objects: those of Kubernetes have no underscores."""
    return f"pipeline-{pipeline.replace('_', '-').rstrip('-')}"


def _psql(name: str, image: str, file: str, environment: Mapping[str, str], secrets: Mapping[str, str]) -> Process:
    return Process(
        name=name,
        image=image,
        command=("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", f"{_SQL}/{file}"),
        environment=environment,
        secrets=secrets,
        mounts=(CA_MOUNT, Mount(volume="sql", path=_SQL)),
        resources=_SMALL,
    )


def _client(host: str, database: str, role: str) -> Mapping[str, str]:
    """Return libpq's variables; the server has to show a certificate of the lab's CA for its name."""
    return {
        "PGHOST": host,
        "PGPORT": "5432",
        "PGDATABASE": database,
        "PGUSER": role,
        "PGCONNECT_TIMEOUT": "10",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": CA_FILE,
        "PGCHANNELBINDING": "require",
    }


def _contents(context: ServiceContext) -> Iterator[Step]:
    yield from contents(context)
    if has_raw(context):
        weather = context.inventory.weather
        yield retention(_options(context.container).retention_months)
        yield archive_policy(weather.archive_months if weather else 0)


def _password(role: str) -> str:
    return f"PASSWORD_{role}"


def _statements(steps: Iterable[Step]) -> Iterator[str]:
    """Yield the text of psql for each step; passwords are in variables of the environment."""
    for step in steps:
        match step:
            case Role():
                yield "\\connect postgres"
                yield f"\\getenv password {_password(step.name)}"
                yield step.sql(":'password'")
            case Database() | RevokedLogins():
                yield "\\connect postgres"
                yield step.sql
            case Sql():
                yield f"\\connect {step.database}"
                yield step.sql
            case _:
                raise TypeError(f"no SQL in {step.title}")


def _tables(pipeline: Pipeline) -> str:
    """Return the text of psql that makes the tables of a pipeline; "" for the weather, whose tables come earlier."""
    if pipeline.is_weather:
        return ""
    layout = Layout(pipeline)
    view = ExclusionView(layout, pipeline.corrections).sql if pipeline.corrections else ""
    return SchemaVersions(layout).sql + view
