"""Configuration files of a PostgreSQL server: written, loaded, and checked by the server itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending
from homelab.steps.files import File
from homelab.steps.postgres_objects import PSQL, literal, run_sql
from homelab.steps.queries import Query
from homelab.steps.root_only import guarded
from homelab.steps.units import SystemdUnit

_SETTING = re.compile(r"^(\w+)\s*=\s*('[^']*'|[^\s#]+)", re.MULTILINE)


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

    Without a running server only the file is written: the step `server`, which comes later, starts it. A setting of
    `alter system` that overrides the file is reset; any other one is an error that names its file.
    """

    server: SystemdUnit = field(kw_only=True)
    psql: str = PSQL
    alone: ClassVar[bool] = True

    def probes(self) -> Sequence[str]:
        """See Step. The server's own view: files that it did not load, restarts that are due, and overrides."""
        return (
            *super().probes(),
            _loaded_since(self.psql, literal(self.path)),
            self._needing_restart,
            self._overridden,
            Query(self.psql, "postgres", "select name from pg_settings where context = 'postmaster'"),
        )

    @property
    def _named(self) -> str:
        """The SQL condition for the settings of this file."""
        names = ",".join(name for name, _ in _SETTING.findall(self.content.decode()))
        return f"name = any ('{{{names}}}')"

    def _changed_settings(self, found: str) -> set[str]:
        """Return the names of the settings that differ between a text and the content."""
        old, new = (dict(_SETTING.findall(text)) for text in (found, self.content.decode()))
        return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}

    @property
    def _needing_restart(self) -> Query:
        """The query for settings that wait for a restart, including those that were removed from this file."""
        return Query(
            self.psql,
            "postgres",
            "select string_agg(name, ', ' order by name) from pg_settings where "
            f"pending_restart and (sourcefile = {literal(self.path)} or {self._named})",
        )

    @property
    def _overridden(self) -> Query:
        """The query for settings of this file that another source overrides, with that source."""
        return Query(
            self.psql,
            "postgres",
            "select string_agg(name || ' by ' || coalesce(sourcefile, source), ', ' order by name) from pg_settings "
            f"where {self._named} and source <> 'override' and sourcefile is distinct from {literal(self.path)}",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, loaded, needing_restart, overridden, at_start_only = answers
        if changed := super().check(file):
            changing = self._changed_settings(file[-1].text if file[-1].ok else "")
            names = sorted(changing & set(at_start_only.text.split()))
            if not names:
                return changed
            return replace(
                changed, reason=f"{changed.reason}; {', '.join(names)}: restart needed", effect=self.server.effect
            )
        if loaded.text == "f":
            return Pending("is not loaded yet")
        if needing_restart.ok and needing_restart.text:
            return Pending(f"{needing_restart.text}: restart needed", effect=self.server.effect)
        if overridden.ok and overridden.text:
            return Pending(f"overridden: {overridden.text}", effect=self.server.effect)
        return None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError that quotes the server; with `validate`, before the old file is replaced."""
        super().apply(host)
        if host.run(Query(self.psql, "postgres", "select 1")).ok:
            run_sql(host, self.psql, "postgres", self._reset, "reset settings of `alter system`")
        # In this order: after a kill in between, the probes find an unloaded file or a missing restart.
        if check(host, _reload(self.psql, self._needing_restart), "reload PostgreSQL").text:
            self.server.restart(host)
        self._require_effect(host)

    @property
    def _reset(self) -> str:
        """The SQL that resets the settings of `alter system` that override this file."""
        return (
            "select format('alter system reset %I', name) from pg_file_settings "
            f"where sourcefile like '%/postgresql.auto.conf' and {self._named} \\gexec\n"
        )

    def _require_effect(self, host: Host) -> None:
        overridden = host.run(self._overridden)
        if overridden.ok and overridden.text:
            raise HomelabError(
                f"Cannot apply the settings of PostgreSQL on {host.name}: they are overridden",
                f"These settings of {self.path} are not in force: {overridden.text}.",
                "Remove them there, then run `homelab deploy` again.",
            )


@dataclass(frozen=True, eq=False)
class PgHba(File):
    """pg_hba.conf, checked by the server's own parser before it is loaded; a file with errors is taken back."""

    psql: str = PSQL
    alone: ClassVar[bool] = True

    def managed_resources(self) -> Sequence[ManagedResource]:
        """Return nothing: without this file the cluster, and so its data, could not be used."""
        return ()

    def probes(self) -> Sequence[str]:
        """See Step. The last two find rules that are not in force, or a previous file that a killed run left."""
        return (*super().probes(), self._not_in_force, argv("test", "!", "-e", f"{self.path}.homelab-previous"))

    @property
    def _not_in_force(self) -> Query:
        """The query for the reason why the server does not follow this file; an empty text if it does."""
        rules = sum(bool(line.strip()) and not line.startswith(b"#") for line in self.content.splitlines())
        return Query(
            self.psql,
            "postgres",
            f"select case when current_setting('hba_file') <> {literal(self.path)} "
            "then 'the server reads ' || current_setting('hba_file') "
            f"when pg_conf_load_time() < (pg_stat_file({literal(self.path)})).modification then 'is not loaded yet' "
            f"when (select count(*) <> {rules} or count(error) > 0 from pg_hba_file_rules) "
            "then 'the server reads other rules' else '' end",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, not_in_force, tidy = answers
        if changed := super().check(file):
            return changed
        if not not_in_force.ok:
            return Pending("is not loaded yet")
        if not_in_force.text:
            return Pending(not_in_force.text)
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
        if reason := check(host, self._not_in_force, "check the rules of PostgreSQL").text:
            raise HomelabError(
                f"Cannot load pg_hba.conf on {host.name}: PostgreSQL does not use it",
                f"{self.path}: {reason}.",
                "Remove `hba_file` from PostgreSQL's settings, restart it, then run `homelab deploy` again.",
            )
