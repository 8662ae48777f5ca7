"""Configuration files of a PostgreSQL server: written, loaded, and checked by the server itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending
from homelab.steps.files import File
from homelab.steps.postgres_objects import PSQL, literal
from homelab.steps.queries import Query
from homelab.steps.root_only import guarded
from homelab.steps.units import SystemdUnit


def _loaded_since(psql: str, path: str) -> Query:
    """Return the query that is true if the server has loaded its files since `path`, an SQL text, was written."""
    return Query(psql, "postgres", f"select pg_conf_load_time() >= (pg_stat_file({path})).modification")


def _reload(psql: str, then: str = "exit 0") -> str:
    """Return shell text that makes the server load its files, waits until it has, and runs `then`.

    Without a running server it does nothing: a server loads its files when it starts.
    """
    load_time = Query(psql, "postgres", "select pg_conf_load_time()")
    return "\n".join(
        [
            f"before=$({load_time}) || exit 0",
            f"{Query(psql, 'postgres', 'select pg_reload_conf()')} >/dev/null",
            f'for _ in $(seq 100); do [ "$({load_time})" = "$before" ] || {{ {then}; exit; }}; sleep 0.05; done',
            "echo 'The server does not load its files; its journal has the reason.' >&2; exit 1",
        ]
    )


@dataclass(frozen=True, eq=False)
class Settings(File):
    """A file of settings, loaded after a change; the server is restarted only if a setting requires it.

    Without a running server only the file is written: the step `server`, which comes later, starts it.
    """

    server: SystemdUnit = field(kw_only=True)
    psql: str = PSQL
    alone: ClassVar[bool] = True

    def probes(self) -> Sequence[str]:
        """See Step. The last two find a file that a killed run did not load, or a restart that it did not make."""
        return (*super().probes(), _loaded_since(self.psql, literal(self.path)), self._needing_restart)

    @property
    def _needing_restart(self) -> Query:
        """The query for settings that wait for a restart, including those that were removed from this file."""
        names = ",".join(re.findall(r"^(\w+)\s*=", self.content.decode(), re.MULTILINE))
        return Query(
            self.psql,
            "postgres",
            "select string_agg(name, ', ' order by name) from pg_settings where "
            f"pending_restart and (sourcefile = {literal(self.path)} or name = any ('{{{names}}}'))",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, loaded, needing_restart = answers
        if changed := super().check(file):
            return changed
        if loaded.text == "f":
            return Pending("is not loaded yet")
        if needing_restart.ok and needing_restart.text:
            return Pending(f"{needing_restart.text}: restart needed")
        return None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError that quotes the server; with `validate`, before the old file is replaced."""
        super().apply(host)
        # In this order: after a kill in between, the probes find an unloaded file or a missing restart.
        if check(host, _reload(self.psql, self._needing_restart), "reload PostgreSQL").text:
            self.server.restart(host)


@dataclass(frozen=True, eq=False)
class PgHba(File):
    """pg_hba.conf, checked by the server's own parser before it is loaded; a file with errors is taken back."""

    psql: str = PSQL
    alone: ClassVar[bool] = True

    def managed_resources(self) -> Sequence[ManagedResource]:
        """Return nothing: without this file the cluster, and so its data, could not be used."""
        return ()

    def probes(self) -> Sequence[str]:
        """See Step. The last two find a file that a killed run did not load, or a previous file that it left."""
        return (
            *super().probes(),
            _loaded_since(self.psql, "current_setting('hba_file')"),
            argv("test", "!", "-e", f"{self.path}.homelab-previous"),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, loaded, tidy = answers
        if changed := super().check(file):
            return changed
        if loaded.text != "t":
            return Pending("is not loaded yet")
        return None if tidy.ok else Pending("the previous version is still there")

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError that quotes the server; the old file then stays in force."""
        path, previous = quote(self.path), quote(f"{self.path}.homelab-previous")
        # An existing copy is from a killed run: it is the file in force, and the present one may have errors.
        copy = f"[ -e {previous} ] || {{ cp -pP {path} {previous}.new && mv -fT {previous}.new {previous}; }}"
        check(host, guarded(copy, self.path), f"copy the old {self.path}")
        super().apply(host)
        query = "select line_number || ': ' || error from pg_hba_file_rules where error is not null"
        errors = check(host, Query(self.psql, "postgres", query), f"check {self.path}")
        if errors.text:
            check(host, guarded(f"mv -fT {previous} {path}", self.path), f"restore the old {self.path}")
            raise HomelabError(
                f"Cannot load pg_hba.conf on {host.name}: PostgreSQL refuses it",
                errors.text,
                "The old file is still in force. Correct templates/postgres/pg_hba.conf.j2.",
            )
        # In this order: after a kill in between, the probes find an unloaded file.
        check(host, guarded(f"rm -f {previous}", self.path) + f"\n{_reload(self.psql)}", "reload PostgreSQL")
