"""Objects in a PostgreSQL server, managed through its own psql."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.model import Pending, Secret, Step
from homelab.steps.queries import Query
from homelab.steps.scram import scram_verifier, verifies

AS_POSTGRES = "env --chdir=/ runuser -u postgres --"  # psql warns of a working directory that it cannot enter
PSQL = f"{AS_POSTGRES} psql"
_CONNECTIONS = 60  # of one role, out of PostgreSQL's 100
_OURS = "homelab"  # the comment on the roles that homelab creates


def literal(value: str) -> str:
    """Return an SQL string literal, for standard_conforming_strings = on, the default."""
    return "'" + value.replace("'", "''") + "'"


def made_by_homelab(role: str) -> str:
    """Return the condition that homelab has created a role, given by an SQL expression for its oid."""
    return f"shobj_description({role}, 'pg_authid') = {literal(_OURS)}"


def run_sql(host: Host, command: str, database: str, sql: str, action: str) -> None:
    """Run SQL from standard input, so that no process list shows it."""
    check(host, f"{command} -X -q -v ON_ERROR_STOP=1 -d {quote(database)} -f -", action, stdin=sql.encode())


@dataclass(frozen=True, eq=False)
class Sql(Step):
    """SQL that runs until the query `done` returns `t`."""

    name: str
    done: str
    sql: str = field(repr=False)
    database: str = "postgres"
    psql: str = PSQL
    triggered_by: Sequence[Step] = ()
    reason: str = "not done yet"

    @property
    def title(self) -> str:
        """See Step."""
        return self.name

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (Query(self.psql, self.database, self.done),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return None if answers[0].ok and answers[0].text == "t" else Pending(self.reason)

    def apply(self, host: Host) -> None:
        """See Step."""
        run_sql(host, self.psql, self.database, self.sql, f"apply `{self.name}`")


@dataclass(frozen=True, eq=False)
class Database(Step):
    """A database in UTF-8 with an owner, without any privilege for PUBLIC.

    Its encoding does not depend on the cluster's. An existing database with another encoding is an error.
    """

    name: str
    owner: str = "postgres"
    psql: str = PSQL

    @property
    def title(self) -> str:
        """See Step."""
        return f"database {self.name}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (
            Query(
                self.psql,
                "postgres",
                "select pg_encoding_to_char(encoding) || ' ' || pg_get_userbyid(datdba) || ' ' || "
                "has_database_privilege('public', oid, 'connect') "
                f"from pg_database where datname = {literal(self.name)}",
            ),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].text or not answers[0].ok:
            return Pending("does not exist")
        wanted = f"UTF8 {self.owner} false"
        if answers[0].text == wanted:
            return None
        return Pending(f"encoding, owner, open to PUBLIC: {answers[0].text} → {wanted}")

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError for an existing database with another encoding."""
        encoding = f"select pg_encoding_to_char(encoding) from pg_database where datname = {literal(self.name)}"
        found = check(host, Query(self.psql, "postgres", encoding), f"read the encoding of the {self.title}").text
        if found not in ("", "UTF8"):
            raise HomelabError(
                f"Cannot use the {self.title} on {host.name}: its encoding is {found}, not UTF8",
                "PostgreSQL cannot change the encoding of an existing database, and city names need UTF-8.",
                f"Dump it with `pg_dump --encoding=UTF8` if you need it. Then drop it (`homelab ssh {host.name} -- "
                f"runuser -u postgres -- dropdb {self.name}`), run `homelab deploy`, and restore the dump.",
            )
        run_sql(host, self.psql, "postgres", self.sql, f"create the {self.title}")

    @property
    def sql(self) -> str:
        """The SQL for psql that creates the database, unless it exists, and sets its owner."""
        create = f"create database {self.name} template template0 encoding 'UTF8' locale 'C.UTF-8'"
        return (
            _unless("pg_database", "datname", self.name, create)
            + f"alter database {self.name} owner to {self.owner};\n"
            f"revoke all on database {self.name} from public;\n"
        )


@dataclass(frozen=True, eq=False)
class Role(Step):
    """A role that logs in with a password; only the SCRAM verifier of the password is sent to the server.

    PostgreSQL lets every role change its own password and settings, and up to version 15 grant itself to others. The
    step finds and reverts that. The number of connections is limited, so that one role cannot take them all.
    """

    name: str
    password: Secret
    psql: str = PSQL

    @property
    def title(self) -> str:
        """See Step."""
        return f"role {self.name}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (
            Query(
                self.psql,
                "postgres",
                "select rolpassword from pg_authid as role where rolcanlogin and not rolsuper and not rolcreatedb "
                f"and not rolcreaterole and not rolbypassrls and not rolreplication and rolconnlimit = {_CONNECTIONS} "
                "and not exists (select from pg_db_role_setting where setrole = role.oid) "
                "and not exists (select from pg_auth_members where roleid = role.oid and grantor = role.oid) "
                f"and shobj_description(role.oid, 'pg_authid') = {literal(_OURS)} "
                f"and rolname = {literal(self.name)}",
            ),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        verifier = answers[0].text if answers[0].ok else ""
        if not verifier:
            return Pending("does not exist, or has other privileges, settings or members")
        return None if verifies(verifier, self.password) else Pending("its password differs")

    def apply(self, host: Host) -> None:
        """See Step."""
        sql = self.sql(literal(scram_verifier(self.password)))
        run_sql(host, self.psql, "postgres", sql, f"create the {self.title}")

    def sql(self, password: str) -> str:
        """Return the SQL for psql that creates the role, unless it exists; `password` is an SQL expression."""
        return (
            _unless("pg_roles", "rolname", self.name, f"create role {self.name}")
            + f"alter role {self.name} login nosuperuser nocreatedb nocreaterole nobypassrls noreplication "
            f"connection limit {_CONNECTIONS} password {password};\n"
            f"comment on role {self.name} is {literal(_OURS)};\n"
            f"{self._own_changes}"
        )

    @property
    def _own_changes(self) -> str:
        """The SQL that reverts the changes that a role can make to itself."""
        role = literal(self.name)
        return (
            f"alter role {self.name} reset all;\n"
            f"select format('alter role {self.name} in database %I reset all', datname) from pg_db_role_setting "
            f"join pg_database as d on d.oid = setdatabase where setrole = {role}::regrole \\gexec\n"
            f"select format('revoke {self.name} from %s', member::regrole) from pg_auth_members "  # regrole quotes it
            f"where roleid = {role}::regrole and grantor = {role}::regrole \\gexec\n"
        )


@dataclass(frozen=True, eq=False)
class RevokedLogins(Step):
    """Homelab's roles that left the inventory: they cannot log in, and keep their objects and data."""

    wanted: Sequence[str]
    psql: str = PSQL

    @property
    def title(self) -> str:
        """See Step."""
        return "logins of removed roles"

    def probes(self) -> Sequence[str]:
        """See Step."""
        names = f"select string_agg(rolname, ', ' order by rolname) from ({self._roles}) as removed"
        return (Query(self.psql, "postgres", names),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        names = answers[0].text if answers[0].ok else ""
        return Pending(f"no longer in the inventory, their data stay: {names}") if names else None

    def apply(self, host: Host) -> None:
        """See Step."""
        run_sql(host, self.psql, "postgres", self.sql, self.title)

    @property
    def sql(self) -> str:
        """The SQL for psql that takes their login and ends their connections."""
        return (
            f"create temporary table removed as {self._roles};\n"
            "select format('alter role %I nologin', rolname) from removed \\gexec\n"
            "select pg_terminate_backend(pid) from pg_stat_activity join removed on rolname = usename;\n"
        )

    @property
    def _roles(self) -> str:
        wanted = ", ".join(map(literal, self.wanted))
        others = f" and rolname not in ({wanted})" if wanted else ""
        return (
            "select rolname from pg_roles where rolcanlogin and not rolsuper "
            f"and shobj_description(oid, 'pg_authid') = {literal(_OURS)}{others}"
        )


def _unless(catalog: str, column: str, name: str, statement: str) -> str:
    return (
        f"select {literal(statement)} where not exists "
        f"(select from {catalog} where {column} = {literal(name)}) \\gexec\n"
    )
