"""The service PostgreSQL, with the raw observations and Airflow's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from homelab.distributions import Distribution
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import DatabaseGrant, Endpoint, Health, ManagedResource, Service, ServiceContext, Step
from homelab.model.inventory import DATABASE, RAW
from homelab.model.options import Option
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.database_grants import grants, monitoring_grant, schema_of
from homelab.services.lab_certificates import server_certificate
from homelab.services.raw_schema import archive_policy, changed_tables, missing_tables, raw_grants, retention, tables
from homelab.steps import (
    Command,
    Database,
    Directory,
    File,
    Packages,
    PgHba,
    Refuse,
    RevokedLogins,
    Role,
    Settings,
    Sql,
    SystemdUnit,
    WaitFor,
)
from homelab.steps.postgres_objects import PSQL
from homelab.steps.queries import Query
from homelab.steps.root_only import refuse_link

_FACTS = """select json_build_object(
  'version', current_setting('server_version'),
  'sizes', (select json_object_agg(datname, pg_database_size(oid)) from pg_database
            where not datistemplate and datname <> 'postgres'),
  'connections', (select count(*) from pg_stat_activity where backend_type = 'client backend'))"""
# One JSON object. Above 100,000 rows, the row count is the planner's estimate, as counting reads the whole table.
_RAW_FACTS = """select json_build_object(
  'raw_rows', (select case when sum(reltuples) > 100000 then sum(reltuples)::bigint
                      else (select count(*) from raw.weather_observations) end
               from pg_inherits join pg_class on pg_class.oid = inhrelid
               where inhparent = 'raw.weather_observations'::regclass),
  'newest_raw_row', (select to_char(max(ingested_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                     from raw.weather_observations))"""
_WITH_TEMPORARY = ("own", "append")  # privileges that include temporary tables
_PORT = 5432
_DATA = "/var/lib/postgresql"
_BASES = ("/etc/postgresql", _DATA)
_CREATE = "/etc/postgresql-common/createcluster.d"
_PGDG_KEY = "/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc"
_PGDG_LIST = "/etc/apt/sources.list.d/pgdg.list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres(Service):
    """PostgreSQL with the databases project_data (raw observations) and airflow_metadata."""

    minimum_memory: ClassVar[int] = 256

    version: Annotated[
        int, Option("Major version. Ubuntu 24.04 ships 16, Debian 12 15, Debian 13 17; PGDG has all of them.", low=1)
    ] = 16
    source: Annotated[
        Literal["distribution", "pgdg"], Option("Packages of the distribution, or of PostgreSQL itself (PGDG).")
    ] = "distribution"
    retention_months: Annotated[
        int,
        Option("Whole months of raw observations to keep, in addition to the current one; 0: all.", low=0, high=1200),
    ] = 0

    def unsupported_options(self, distribution: Distribution) -> Iterator[tuple[str, str]]:
        """Return an error for a version that the distribution does not ship; PGDG has all versions."""
        if self.source == "distribution" and self.version != distribution.postgres:
            yield (
                "version",
                (
                    f"{distribution.alias} ships PostgreSQL {distribution.postgres}, not {self.version}: "
                    f"write {distribution.postgres}, or `source: pgdg`"
                ),
            )

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Return none: it is the server."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that for the containers with a grant, as in pg_hba.conf."""
        return (Endpoint(name="sql", port=_PORT, description="PostgreSQL", audience="grantees", tls=True),)

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the clusters."""
        return (_DATA,)

    def units(self) -> Sequence[str]:
        """Return the unit of the cluster, as Debian's postgresql-common names it."""
        return (f"postgresql@{self.version}-main.service",)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return packages, certificate, settings, roles, databases, grants and pg_hba.conf."""
        folder, unit, sandbox = f"/etc/postgresql/{self.version}/main", self.units()[0], self._sandbox
        certificate = server_certificate(context, "postgres", "postgres")
        dropin = File(
            f"/etc/systemd/system/{unit}.d/homelab.conf", render("postgres/postgresql.service.conf.j2", sandbox=sandbox)
        )
        server = SystemdUnit(unit, triggered_by=[dropin], settle=0)
        server_program = f"/usr/lib/postgresql/{self.version}/bin/postgres"
        parsed = f'{sandbox.run(server_program, "-C", "port", "-D", self._data)} -c config_file="$new" >/dev/null'
        settings = Settings(
            f"{folder}/conf.d/homelab.conf",
            render(
                "postgres/postgresql.conf.j2",
                memory=context.container.shape.memory,
                certificate=certificate.path,
                folder=folder,
            ),
            validate=parsed,
            server=server,
            triggered_by=[certificate],
        )
        return (
            self._one_version(context.container.name),
            *self._packages(),
            # Packages and pg_createcluster give these to the server's user, which could then redirect root's writes.
            *(Directory(f"{base}{part}") for base in _BASES for part in ("", f"/{self.version}")),
            self._cluster(),
            certificate,
            Directory(folder),
            Directory(f"{folder}/conf.d"),
            sandbox.file(),
            settings,
            Directory(f"/etc/systemd/system/{unit}.d"),
            dropin,
            server,
            # After a start of the server, the following steps are probed again.
            WaitFor("PostgreSQL answers", Query(PSQL, "postgres", "select 1"), context.container.name, early=True),
            *contents(context),
            *([retention(self.retention_months), archive_policy(_archived(context))] if has_raw(context) else []),
            PgHba(f"{folder}/pg_hba.conf", hba(context), group="postgres", mode=0o640),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the queries for sizes and connections, for missing and changed tables, and for the raw rows."""
        raw = Query(PSQL, DATABASE, _RAW_FACTS)  # fails without the tables of the weather
        return (Query(PSQL, DATABASE, _FACTS) + " 2>&1", missing_tables(), changed_tables(), raw)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and has all raw tables."""
        if answers[1].ok and answers[1].text:
            return Health(False, f"missing: {answers[1].text}; `homelab deploy` creates them, without their rows")
        if not answers[0].ok:
            return Health(False, f"does not answer: {answers[0].text[-200:]}")
        if answers[2].ok and answers[2].text == "t":
            return Health(False, "raw tables were changed by hand: `homelab deploy` repairs them or names the change")
        facts = json.loads(answers[0].text)
        sizes = ", ".join(f"{name} {size // 2**20} MiB" for name, size in facts["sizes"].items())
        summary = f"{sizes}; {facts['connections']} connections"
        if answers[3].ok:
            facts |= json.loads(answers[3].text)
            summary += f"; {facts['raw_rows']} raw rows, newest {facts['newest_raw_row'] or 'none yet'}"
        return Health(True, summary, facts)

    @property
    def _data(self) -> str:
        return f"/var/lib/postgresql/{self.version}/main"

    @property
    def _sandbox(self) -> Sandbox:
        return Sandbox("postgres", (self._data, "/var/log/postgresql", "/run/postgresql"))

    def _cluster(self) -> Command:
        """Return the step that creates the cluster `main`.

        A stamp exists while it is created: the leftovers of a killed run have no data and are removed, as the script of
        the package takes them for a complete cluster. Existing data never get a stamp, so they are never removed.
        """
        conf, data = f"/etc/postgresql/{self.version}/main", self._data
        stamp = f"/var/lib/homelab/creating-postgresql-{self.version}"
        return Command(
            f"cluster {self.version}/main",
            f"[ ! -e {stamp} ] && [ -e {conf}/postgresql.conf ]",
            "\n".join(
                [
                    "set -e; mkdir -p /var/lib/homelab",
                    *map(refuse_link, (conf, data)),
                    f"if [ -e {stamp} ]; then systemctl stop {self.units()[0]}; rm -rf {conf} {data}; fi",
                    f'[ -n "$(ls -A {data} 2>/dev/null)" ] || {{ touch {stamp}; sync {stamp}; }}',
                    f"LC_ALL=C.UTF-8 pg_createcluster {self.version} main",
                    f"rm -f {stamp}; systemctl daemon-reload",
                ]
            ),
            writes=[conf, data],
        )

    def _one_version(self, container: str) -> Refuse:
        """Return the step that refuses another major version next to existing data, which it cannot read."""
        others = f"ls -d {_DATA}/*/main/PG_VERSION 2>/dev/null | grep -v '^{_DATA}/{self.version}/' | grep -q ."
        return Refuse(
            f"PostgreSQL has no data of another version than {self.version}",
            f"if {others}; then echo t; else echo f; fi",
            HomelabError(
                f"Cannot change PostgreSQL to version {self.version}: the data are those of another version",
                f"`homelab ssh {container} pg_lsclusters` lists them. A new cluster would be empty.",
                "Write the earlier `version`, or move the data: docs/how-to/upgrade.md.",
            ),
        )

    def _packages(self) -> Iterator[Step]:
        yield Directory(_CREATE)
        yield File(f"{_CREATE}/homelab.conf", b"create_main_cluster = false\n")
        if self.source == "pgdg":
            # Debian and Ubuntu ship PGDG's key with this package, so it need not be fetched from anywhere.
            yield Packages(["postgresql-common", "ca-certificates"])
            line = f"deb [signed-by={_PGDG_KEY}] https://apt.postgresql.org/pub/repos/apt $VERSION_CODENAME-pgdg main"
            yield Command(
                "apt repository PGDG",
                f'. /etc/os-release; grep -qxsF "{line}" {_PGDG_LIST}',
                f'. /etc/os-release; echo "{line}" >{_PGDG_LIST}.new && mv -f {_PGDG_LIST}.new {_PGDG_LIST}',
                makes=[ManagedResource("made", _PGDG_LIST)],
            )
        yield Packages([f"postgresql-{self.version}", "dbus"])


def hba(context: ServiceContext) -> bytes:
    """Return pg_hba.conf: one line for each role, database and address; all others are rejected."""
    rows = sorted(
        {
            (grant.database, grant.role, str(container.address))
            for container, grant in context.inventory.database_grants()
        }
    )
    return render("postgres/pg_hba.conf.j2", rows=rows)


def contents(context: ServiceContext, command: str = PSQL) -> Iterator[Step]:
    """Yield roles, databases, schemas, the raw tables and the grants, all from the grants of the services."""
    database_grants = sorted({grant for _, grant in context.inventory.database_grants()}, key=str)
    roles = sorted({grant.role for grant in database_grants})
    for role in roles:
        yield Role(role, context.secret_store.secret(f"postgres-{role}"), command)
    yield RevokedLogins(roles, command)
    owners = {(grant.database, grant.schema): grant.role for grant in database_grants if grant.privilege == "own"}
    databases = sorted({DATABASE, *(grant.database for grant in database_grants)})
    for database in databases:
        yield Database(database, owners.get((database, ""), "postgres"), command)
    for database in (*databases, "template1"):
        yield no_large_objects(database, command)
    made = [tables(command)] if has_raw(context) else []
    yield from made
    for grant in database_grants:
        if grant.privilege == "own" and grant.schema:
            yield schema_of(grant, command)
    with_temporary = {(grant.database, grant.role) for grant in database_grants if grant.privilege in _WITH_TEMPORARY}
    for grant in database_grants:
        temporary = (grant.database, grant.role) in with_temporary
        if (place := (grant.database, grant.schema)) == RAW:
            yield raw_grants(grant, command, temporary=temporary, after=made)
        elif grant.privilege == "monitor":
            yield monitoring_grant(grant, command)
        elif grant.privilege != "own":
            yield grants(grant, command, owner=owners.get(place, "postgres"), temporary=temporary)


def has_raw(context: ServiceContext) -> bool:
    """Check that the inventory has the weather, whose tables are in the schema `raw`."""
    return any((grant.database, grant.schema) == RAW for _, grant in context.inventory.database_grants())


def no_large_objects(database: str, command: str = PSQL) -> Sql:
    """Return the step that reserves large objects for superusers: they have no limit, and belong to no schema."""
    functions = (
        "pg_proc where pronamespace = 'pg_catalog'::regnamespace and (proname like 'lo\\_%' "
        "or proname in ('loread', 'lowrite')) and has_function_privilege('public', oid, 'execute')"
    )
    return Sql(
        f"large objects of {database} for superusers only",
        f"select not exists (select from {functions})",
        f"select format('revoke execute on function %s from public', oid::regprocedure) from {functions} \\gexec\n",
        database,
        command,
    )


def _archived(context: ServiceContext) -> int:
    weather = context.inventory.weather
    return weather.archive_months if weather else 0
