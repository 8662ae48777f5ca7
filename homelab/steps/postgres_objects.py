"""Objects in a PostgreSQL server, managed through its own psql."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote

from homelab.host import Host, Result, check
from homelab.model import Pending, Secret, Step
from homelab.steps.queries import Query
from homelab.steps.scram import scram_verifier, verifies

AS_POSTGRES = "env --chdir=/ runuser -u postgres --"  # psql warns of a working directory that it cannot enter
PSQL = f"{AS_POSTGRES} psql"


def literal(value: str) -> str:
    """Return an SQL string literal, for standard_conforming_strings = on, the default."""
    return "'" + value.replace("'", "''") + "'"


def _run(host: Host, command: str, database: str, sql: str, action: str) -> None:
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
        _run(host, self.psql, self.database, self.sql, f"apply `{self.name}`")


@dataclass(frozen=True, eq=False)
class Database(Step):
    """A database with an owner, without any privilege for PUBLIC."""

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
                "select pg_get_userbyid(datdba) || ' ' || has_database_privilege('public', oid, 'connect') "
                f"from pg_database where datname = {literal(self.name)}",
            ),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].text or not answers[0].ok:
            return Pending("does not exist")
        wanted = f"{self.owner} false"
        return None if answers[0].text == wanted else Pending(f"owner, open to PUBLIC: {answers[0].text} → {wanted}")

    def apply(self, host: Host) -> None:
        """See Step."""
        _run(
            host,
            self.psql,
            "postgres",
            _unless("pg_database", "datname", self.name, f"create database {self.name}")
            + f"alter database {self.name} owner to {self.owner};\n"
            f"revoke all on database {self.name} from public;\n",
            f"create the {self.title}",
        )


@dataclass(frozen=True, eq=False)
class Role(Step):
    """A role that logs in with a password; only the SCRAM verifier of the password is sent to the server."""

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
                "select rolpassword from pg_authid where rolcanlogin and not rolsuper and not rolcreatedb "
                f"and not rolcreaterole and not rolbypassrls and rolname = {literal(self.name)}",
            ),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        verifier = answers[0].text if answers[0].ok else ""
        if not verifier:
            return Pending("does not exist, or has other privileges")
        return None if verifies(verifier, self.password) else Pending("its password differs")

    def apply(self, host: Host) -> None:
        """See Step."""
        _run(
            host,
            self.psql,
            "postgres",
            _unless("pg_roles", "rolname", self.name, f"create role {self.name}")
            + f"alter role {self.name} login nosuperuser nocreatedb nocreaterole nobypassrls "
            f"password {literal(scram_verifier(self.password))};\n",
            f"create the {self.title}",
        )


def _unless(catalog: str, column: str, name: str, statement: str) -> str:
    return (
        f"select {literal(statement)} where not exists "
        f"(select from {catalog} where {column} = {literal(name)}) \\gexec\n"
    )
