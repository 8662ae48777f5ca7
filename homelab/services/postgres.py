"""PostgreSQL: the raw observations and Airflow's metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from homelab.distributions import Distribution
from homelab.host import Result
from homelab.model import DatabaseGrant, Health, ManagedResource, Port, Service, ServiceContext, Step
from homelab.model.options import Option
from homelab.paths import bundled_path
from homelab.render import render
from homelab.steps import Command, Database, Directory, File, Packages, PgHba, Role, Settings, Sql, SystemdUnit
from homelab.steps.postgres_objects import AS_POSTGRES, PSQL
from homelab.steps.queries import Query

_TABLES = "pg_class where relnamespace = to_regnamespace('raw') and relkind in ('r', 'p')"
# One JSON object; the row count is the planner's estimate once there are many, as counting would read them all.
_FACTS = """select json_build_object(
  'version', current_setting('server_version'),
  'sizes', (select json_object_agg(datname, pg_database_size(oid)) from pg_database
            where not datistemplate and datname <> 'postgres'),
  'connections', (select count(*) from pg_stat_activity where backend_type = 'client backend'),
  'raw_rows', (select case when sum(reltuples) > 100000 then sum(reltuples)::bigint
                      else (select count(*) from raw.weather_observations) end
               from pg_inherits join pg_class on pg_class.oid = inhrelid
               where inhparent = 'raw.weather_observations'::regclass),
  'newest_raw_row', (select to_char(max(ingested_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                     from raw.weather_observations))"""
_PORT = 5432
_CREATE = "/etc/postgresql-common/createcluster.d"
_UPKEEP = ("upkeep.partitions()", "upkeep.record_settings(text, text[], text[])")
_WRITES = ("insert", "update", "delete", "truncate")
_PGDG_KEY = "/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc"
_PGDG_LIST = "/etc/apt/sources.list.d/pgdg.list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres(Service):
    """PostgreSQL with the databases project_data (raw observations) and airflow_metadata."""

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
        """A distribution ships one version; PGDG has them all."""
        if self.source == "distribution" and self.version != distribution.postgres:
            yield (
                "version",
                (
                    f"{distribution.alias} ships PostgreSQL {distribution.postgres}, not {self.version}: "
                    f"write {distribution.postgres}, or `source: pgdg`"
                ),
            )

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """None: it is the one that is reached."""
        return ()

    def ports(self) -> Sequence[Port]:
        """Whoever has an access may come in, as pg_hba.conf has it."""
        return (Port(_PORT, "PostgreSQL", "accesses"),)

    def units(self) -> Sequence[str]:
        """The cluster's unit, as Debian's postgresql-common names it."""
        return (f"postgresql@{self.version}-main.service",)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Packages, settings, roles, databases, grants, pg_hba.conf."""
        folder, unit = f"/etc/postgresql/{self.version}/main", self.units()[0]
        dropin = File(f"/etc/systemd/system/{unit}.d/homelab.conf", render("postgres/postgresql.service.conf.j2"))
        server = SystemdUnit(unit, triggered_by=[dropin], settle=0)
        parsed = (
            f"{AS_POSTGRES} /usr/lib/postgresql/{self.version}/bin/postgres -C port "
            f'-D /var/lib/postgresql/{self.version}/main -c config_file="$new" >/dev/null'
        )
        settings = Settings(
            f"{folder}/conf.d/homelab.conf",
            render("postgres/postgresql.conf.j2", memory=context.container.shape.memory),
            validate=parsed,
            server=server,
        )
        return (
            *self._packages(),
            self._cluster(),
            settings,
            Directory(f"/etc/systemd/system/{unit}.d"),
            dropin,
            server,
            *contents(context),
            retention(self.retention_months),
            PgHba(f"{folder}/pg_hba.conf", hba(context), "postgres", "postgres", 0o640),
        )

    def health_probes(self) -> Sequence[str]:
        """Sizes, connections, and the newest raw row."""
        return (Query(PSQL, "project_data", _FACTS) + " 2>&1",)

    def health(self, answers: Sequence[Result]) -> Health:
        """Healthy when it answers."""
        if not answers[0].ok:
            return Health(False, f"does not answer: {answers[0].text[-200:]}")
        facts = json.loads(answers[0].text)
        sizes = ", ".join(f"{name} {size // 2**20} MiB" for name, size in facts["sizes"].items())
        return Health(
            True,
            f"{sizes}; {facts['connections']} connections; {facts['raw_rows']} raw rows, newest "
            f"{facts['newest_raw_row'] or 'none yet'}",
            facts,
        )

    def _cluster(self) -> Command:
        """The cluster `main`. While it is being made, a stamp says so: what a killed run left of it holds no data.

        The package's own script takes whatever initdb has left behind for a whole cluster. Data that were there before
        get no stamp: whatever happens, they are taken over and never removed.
        """
        conf, data = f"/etc/postgresql/{self.version}/main", f"/var/lib/postgresql/{self.version}/main"
        stamp = f"/var/lib/homelab/making-postgresql-{self.version}"
        return Command(
            f"cluster {self.version}/main",
            f"[ ! -e {stamp} ] && [ -e {conf}/postgresql.conf ]",
            "\n".join(
                [
                    "set -e; mkdir -p /var/lib/homelab",
                    f"if [ -e {stamp} ]; then systemctl stop {self.units()[0]}; rm -rf {conf} {data}; fi",
                    f'[ -n "$(ls -A {data} 2>/dev/null)" ] || {{ touch {stamp}; sync {stamp}; }}',
                    f"LC_ALL=C.UTF-8 pg_createcluster {self.version} main",
                    f"rm -f {stamp}; systemctl daemon-reload",
                ]
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
        yield Packages([f"postgresql-{self.version}"])


def hba(context: ServiceContext) -> bytes:
    """pg_hba.conf: one line for each role, database and address, and nobody else."""
    rows = sorted(
        {
            (access.database, access.role, str(container.address))
            for container, access in context.inventory.database_grants()
        }
    )
    return render("postgres/pg_hba.conf.j2", rows=rows)


def contents(context: ServiceContext, command: str = PSQL) -> Iterator[Step]:
    """Roles, databases, the raw table and the grants, all from the services' accesses."""
    database_grants = sorted({access for _, access in context.inventory.database_grants()}, key=str)
    for role in sorted({access.role for access in database_grants}):
        yield Role(role, context.secret_store.secret(f"postgres-{role}"), command)
    owners = {access.database: access.role for access in database_grants if access.privilege == "own"}
    for database in sorted({access.database for access in database_grants}):
        yield Database(database, owners.get(database, "postgres"), command)
    yield _tables(command)
    for access in database_grants:
        if access.privilege != "own":
            yield grants(access, command)


def _tables(command: str) -> Sql:
    raw = (bundled_path("templates") / "postgres" / "project_data.sql").read_text()
    # The text is safe to run again, so any change of it is one that has to be made.
    mark = f"homelab {hashlib.sha256(raw.encode()).hexdigest()[:16]}"
    return Sql(
        "tables of raw",
        f"select obj_description(to_regnamespace('raw'), 'pg_namespace') = '{mark}'",
        f"{raw}comment on schema raw is '{mark}';\n",
        "project_data",
        command,
    )


def retention(months: int, command: str = PSQL) -> Sql:
    """Set the number of whole months of raw observations to keep, in addition to the current one; 0: all."""
    return Sql(
        f"raw observations are kept for {months} months" if months else "raw observations are kept",
        f"select coalesce((select months from upkeep.retention), 0) = {months}",
        f"insert into upkeep.retention (months) values ({months}) on conflict (one) do update "
        "set months = excluded.months;",
        "project_data",
        command,
    )


def grants(access: DatabaseGrant, command: str = PSQL) -> Sql:
    """Grant a role's privileges on the raw tables: read, or read and append."""
    role, granted = access.role, ("select", "insert") if access.privilege == "append" else ("select",)
    refused = [privilege for privilege in _WRITES if privilege not in granted]
    has = " and ".join(
        [
            *(f"has_table_privilege('{role}', oid, '{p}')" for p in granted),
            *(f"not has_table_privilege('{role}', oid, '{p}')" for p in refused),
        ]
    )
    # An appending role stages keys in a temporary table and calls the functions of `upkeep`.
    appends = access.privilege == "append"
    word, to = ("grant", "to") if appends else ("revoke", "from")
    may = (
        f"has_database_privilege('{role}', current_database(), 'temporary')",
        *(f"has_function_privilege('{role}', to_regprocedure('{each}'), 'execute')" for each in _UPKEEP),
        f"has_schema_privilege('{role}', 'upkeep', 'usage')",
    )
    beyond = " and ".join(each if appends else f"not {each}" for each in may)
    done = (
        f"select has_database_privilege('{role}', current_database(), 'connect') "
        f"and has_schema_privilege('{role}', 'raw', 'usage') "
        f"and not has_schema_privilege('{role}', 'raw', 'create') and {beyond} and bool_and({has}) from {_TABLES}"
    )
    tables = ", ".join(granted)
    sql = "\n".join(
        [
            "begin;",  # `done` does not check the default privileges
            f"grant connect on database {access.database} to {role};",
            f"revoke all on schema raw from {role};",
            f"grant usage on schema raw to {role};",
            f"revoke all on all tables in schema raw from {role};",
            f"grant {tables} on all tables in schema raw to {role};",
            f"alter default privileges in schema raw revoke all on tables from {role};",
            f"alter default privileges in schema raw grant {tables} on tables to {role};",
            f"{word} temporary on database {access.database} {to} {role};",
            f"{word} usage on schema upkeep {to} {role};",
            *(f"{word} execute on function {each} {to} {role};" for each in _UPKEEP),
            "commit;",
        ]
    )
    return Sql(f"grants: {role} may {access.privilege} {access.database}", done, sql, access.database, command)
