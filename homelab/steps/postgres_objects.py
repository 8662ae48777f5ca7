"""What has to be so inside a PostgreSQL server, through its own psql."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending, Secret, Step
from homelab.steps.files import File
from homelab.steps.queries import Query
from homelab.steps.units import SystemdUnit

AS_POSTGRES = "env --chdir=/ runuser -u postgres --"  # who may not enter root's folder, and would say so
PSQL = f"{AS_POSTGRES} psql"
_ITERATIONS = 4096  # PostgreSQL's own default for SCRAM


def literal(value: str) -> str:
    """An SQL string literal (standard_conforming_strings is on, as by default)."""
    return "'" + value.replace("'", "''") + "'"


def _run(host: Host, command: str, database: str, sql: str, what: str) -> None:
    """Run SQL from standard input, so that it is in no process list."""
    check(host, f"{command} -X -q -v ON_ERROR_STOP=1 -d {quote(database)} -f -", what, stdin=sql.encode())


@dataclass(frozen=True, eq=False)
class Sql(Step):
    """SQL that has to run until `done`, a query, answers `t`."""

    name: str
    done: str
    sql: str = field(repr=False)
    database: str = "postgres"
    psql: str = PSQL
    triggered_by: Sequence[Step] = ()

    @property
    def title(self) -> str:
        """See Step."""
        return self.name

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (Query(self.psql, self.database, self.done),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return None if answers[0].ok and answers[0].text == "t" else Pending("not so yet")

    def apply(self, host: Host) -> None:
        """See Step."""
        _run(host, self.psql, self.database, self.sql, self.name)


@dataclass(frozen=True, eq=False)
class Database(Step):
    """A database with an owner, closed to everyone who was not let in."""

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
        return None if answers[0].text == wanted else Pending(f"owner, open to all: {answers[0].text} → {wanted}")

    def apply(self, host: Host) -> None:
        """See Step."""
        _run(
            host,
            self.psql,
            "postgres",
            _unless("pg_database", "datname", self.name, f"create database {self.name}")
            + f"alter database {self.name} owner to {self.owner};\n"
            f"revoke all on database {self.name} from public;\n",
            f"making the {self.title}",
        )


@dataclass(frozen=True, eq=False)
class Role(Step):
    """A role that logs in with a password; only the SCRAM verifier of it ever reaches the server."""

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
            return Pending("does not exist, or may do more or less than it should")
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
            f"making the {self.title}",
        )


def _unless(catalog: str, column: str, name: str, statement: str) -> str:
    return (
        f"select {literal(statement)} where not exists "
        f"(select from {catalog} where {column} = {literal(name)}) \\gexec\n"
    )


def scram_verifier(password: Secret, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """What PostgreSQL stores for a SCRAM-SHA-256 password (RFC 5803), so that the password need not be sent."""
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.reveal().encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored, server, salt64 = (
        base64.b64encode(part).decode() for part in (hashlib.sha256(client_key).digest(), server_key, salt)
    )
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored}:{server}"


def verifies(verifier: str, password: Secret) -> bool:
    """Whether a stored verifier belongs to this password."""
    try:
        scheme, parameters, _ = verifier.split("$")
        iterations, salt = parameters.split(":")
    except ValueError:
        return False
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(
        verifier, scram_verifier(password, base64.b64decode(salt), int(iterations))
    )


def _loaded_since(psql: str, path: str) -> Query:
    """Whether the server has read its files since that one was written; `path` is SQL."""
    return Query(psql, "postgres", f"select pg_conf_load_time() >= (pg_stat_file({path})).modification")


def _reload(psql: str, then: str = "exit 0") -> str:
    """Shell text that has the server read its files anew, waits until it has, and goes on with `then`.

    Where no server answers there is nothing to do: one that starts reads them.
    """
    when = Query(psql, "postgres", "select pg_conf_load_time()")
    return "\n".join(
        [
            f"before=$({when}) || exit 0",
            f"{Query(psql, 'postgres', 'select pg_reload_conf()')} >/dev/null",
            f'for _ in $(seq 100); do [ "$({when})" = "$before" ] || {{ {then}; exit; }}; sleep 0.05; done',
            "echo 'It does not take what stands in its files; its journal says why.' >&2; exit 1",
        ]
    )


@dataclass(frozen=True, eq=False)
class Settings(File):
    """A file of settings: put in place, loaded, and the server restarted only where a setting cannot do without.

    Where no server answers, the file is all there is to do: `server`, which comes later, starts it.
    """

    server: SystemdUnit = field(kw_only=True)
    psql: str = PSQL
    alone: ClassVar[bool] = True

    def probes(self) -> Sequence[str]:
        """See Step. The last two find what a killed run wrote and did not load, or what it loaded in vain."""
        return (*super().probes(), _loaded_since(self.psql, literal(self.path)), self._waiting)

    @property
    def _waiting(self) -> Query:
        """Which of the settings here wait for a restart, also of those that stand here no more."""
        names = ",".join(re.findall(r"^(\w+)\s*=", self.content.decode(), re.MULTILINE))
        return Query(
            self.psql,
            "postgres",
            "select string_agg(name, ', ' order by name) from pg_settings where "
            f"pending_restart and (sourcefile = {literal(self.path)} or name = any ('{{{names}}}'))",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, loaded, waiting = answers
        if changed := super().check(file):
            return changed
        if loaded.text == "f":
            return Pending("is not loaded yet")
        return Pending(f"{waiting.text}: restart needed") if waiting.ok and waiting.text else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError that quotes the server; with `validate`, before the old file is replaced."""
        super().apply(host)
        # In this order: a run that is killed in between finds that it is not loaded yet, or what waits for a restart.
        if check(host, _reload(self.psql, self._waiting), "reloading PostgreSQL").text:
            self.server.restart(host)


@dataclass(frozen=True, eq=False)
class PgHba(File):
    """pg_hba.conf: put in place, read by the server's own parser, and only then loaded; a faulty one is taken back."""

    psql: str = PSQL
    alone: ClassVar[bool] = True

    def managed_resources(self) -> Sequence[ManagedResource]:
        """Nothing: without it, the cluster, and so the data, could not be used any more."""
        return ()

    def probes(self) -> Sequence[str]:
        """See Step. The last two find what a killed run wrote and did not load, or loaded and did not clear away."""
        return (
            *super().probes(),
            _loaded_since(self.psql, "current_setting('hba_file')"),
            argv("test", "!", "-e", f"{self.path}.homelab-previous"),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, loaded, cleared = answers
        if changed := super().check(file):
            return changed
        if loaded.text != "t":
            return Pending("is not loaded yet")
        return None if cleared.ok else Pending("the one before was not cleared away")

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError that quotes the server, and the old file stands."""
        path, kept = quote(self.path), quote(f"{self.path}.homelab-previous")
        # One that is there is from a run that was killed: it is the one in force, and what stands here may not be.
        check(
            host,
            f"[ -e {kept} ] || {{ cp -p {path} {kept}.new && mv -fT {kept}.new {kept}; }}",
            f"keeping the old {self.path}",
        )
        super().apply(host)
        faults = check(
            host,
            Query(
                self.psql,
                "postgres",
                "select line_number || ': ' || error from pg_hba_file_rules where error is not null",
            ),
            f"reading {self.path} back",
        )
        if faults.text:
            check(host, f"mv -f {kept} {path}", f"taking back {self.path}")
            raise HomelabError(
                f"{host.name}: PostgreSQL refuses the new pg_hba.conf",
                faults.text,
                "The old one is still in force. Mend templates/postgres/pg_hba.conf.j2.",
            )
        # In this order: a run that is killed in between finds that it is not loaded yet.
        check(host, f"rm -f {kept}\n{_reload(self.psql)}", "reloading PostgreSQL")
