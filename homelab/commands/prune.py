"""`homelab prune`: delete the data of a service or a pipeline that left the inventory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.host import Host, argv, check, expected_format
from homelab.inventory.errors import did_you_mean
from homelab.inventory.pipelines_section import name_error
from homelab.model.inventory import WEATHER
from homelab.model.lake import LAKE
from homelab.runtime.concurrency import run_all_or_raise
from homelab.runtime.connections import Connection
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.session import Session
from homelab.services.leftovers import Leftovers, leftovers, pipeline_leftovers
from homelab.services.registry import Registry, ServiceError
from homelab.steps import manifest, remote_paths
from homelab.steps.locking import LockedHost
from homelab.steps.postgres_objects import PSQL, literal, made_by_homelab, run_sql
from homelab.steps.queries import Query
from homelab.steps.root_only import guarded


@dataclass(frozen=True, slots=True)
class Datum:
    """Data of a removed service in a container: a `database`, `schema`, `role` or `folder`, and its size in bytes."""

    container: str
    kind: str
    name: str
    bytes: int | None = None

    def __str__(self) -> str:
        size = "" if self.bytes is None else f", {self.bytes / 2**20:.1f} MiB"
        return f"{self.container}: {self.kind} {self.name}{size}"


@dataclass(frozen=True, slots=True)
class Pruned:
    """The data of a removed service; `confirmed` is False if it was not deleted."""

    service: str
    data: Sequence[Datum]
    confirmed: bool = True

    def __str__(self) -> str:
        if not self.data:
            return f"Nothing to do: {self.service} has no data."
        return f"{len(self.data)} deleted" if self.confirmed else "Nothing was deleted."


def prune(session: Session, name: str, registry: Registry, confirm: Callable[[Sequence[str]], bool]) -> Pruned:
    """Delete the data of a removed service or pipeline after `confirm` agrees to its list.

    Raises InputError for an unknown service or one in the inventory, HomelabError if it is still installed.
    """
    unknown: InputError | None = None
    try:
        wanted = leftovers(name, _kind(registry, name), session.inventory)
    except KeyError as error:
        if name != WEATHER:
            unknown = InputError(
                f"Cannot prune {name}: unknown service, and no pipeline of this name has left data",
                did_you_mean(name, registry.names()),
                "`homelab services` lists all services.",
            )
            if name_error(name, {}):
                raise unknown from error
        wanted = pipeline_leftovers(name, session.inventory)
    with lab_lock(session.inventory.state_dir, "prune"), ExitStack() as connections:
        work = {each.name: partial(session.connect, each) for each in session.inventory.containers}
        hosts = run_all_or_raise(work)
        for host in hosts.values():
            connections.callback(host.close)
        found = [*_in_postgres(session, hosts, wanted), *_folders(session, hosts, wanted, name)]
        if unknown and not found:
            raise unknown
        if found and not confirm([str(each) for each in found]):
            return Pruned(name, found, confirmed=False)
        for each in found:
            locked = LockedHost(hosts[each.container], session.progress)
            with session.progress.step(each.container, f"delete {each.kind} {each.name}"):
                _delete(locked, each)
        return Pruned(name, found)


def _kind(registry: Registry, name: str) -> type:
    try:
        return registry.get(name)
    except ServiceError as error:
        raise InputError(
            f"Cannot prune {name}: it cannot be loaded", str(error), "List the services with `homelab services`."
        ) from error


def _in_postgres(session: Session, hosts: dict[str, Connection], wanted: Leftovers) -> Iterator[Datum]:
    for container in session.inventory.containers_with("postgres"):
        host = hosts[container.name]
        with expected_format(host.name, "list databases and roles"):
            for database, size in _json(host, "postgres", _databases(wanted.databases)).items():
                yield Datum(container.name, "database", database, size)
            for database, schema in wanted.schemas:
                # The first lake makes its database.
                missing = database == LAKE and not _json(host, "postgres", _has_database(LAKE))
                if not missing and _json(host, database, _has_schema(schema)):
                    yield Datum(container.name, "schema", f"{database}.{schema}")
            for role in _json(host, "postgres", _roles(wanted.roles)):
                yield Datum(container.name, "role", role)


def _json(host: Host, database: str, sql: str) -> Any:
    text = check(host, Query(PSQL, database, sql), "list databases and roles").text
    return json.loads(text or "null") or {}


def _databases(names: Sequence[str]) -> str:
    return (
        "select json_object_agg(datname, pg_database_size(oid)) from pg_database "
        f"where datname = any ({_array(names)}) and {made_by_homelab('datdba')}"
    )


def _has_database(name: str) -> str:
    return f"select to_json(exists (select from pg_database where datname = {literal(name)}))"


def _has_schema(name: str) -> str:
    return (
        f"select to_json(exists (select from pg_namespace where oid = to_regnamespace({literal(name)}) "
        f"and ({made_by_homelab('nspowner')} or obj_description(oid, 'pg_namespace') like 'homelab %')))"
    )


def _roles(names: Sequence[str]) -> str:
    return (
        f"select json_agg(rolname order by rolname) from pg_roles where rolname = any ({_array(names)}) "
        f"and {made_by_homelab('oid')}"
    )


def _array(names: Sequence[str]) -> str:
    return f"array[{', '.join(map(literal, names))}]::text[]"


def _folders(session: Session, hosts: dict[str, Connection], wanted: Leftovers, name: str) -> Iterator[Datum]:
    for container in session.inventory.containers:
        host = hosts[container.name]
        used = {path for service in container.services.values() for path in service.data_folders()}
        managed = {each.name for each in manifest.parse(host.run(argv("cat", remote_paths.manifest())).text)}
        for folder in sorted(set(wanted.folders) - used):
            if folder in managed:
                raise HomelabError(
                    f"Cannot prune {name}: it is still installed on {container.name}",
                    f"{folder} is in use there.",
                    "Run `homelab deploy`, which removes the service, then run this command again.",
                )
            path = quote(folder)
            size = host.run(f'[ -d {path} ] && [ -n "$(ls -A {path})" ] && du -sb {path} | cut -f1')
            if size.ok and size.text.isdigit():
                yield Datum(container.name, "folder", folder, int(size.text))


def _delete(host: Host, datum: Datum) -> None:
    action = f"delete the {datum.kind} {datum.name}"
    if datum.kind == "folder":
        path = quote(datum.name)
        # The folder itself may be a mount point, which stays.
        text = f"find {path} -mindepth 1 -delete && {{ rmdir {path} 2>/dev/null || mountpoint -q {path}; }}"
        check(host, guarded(text, datum.name), action)
    elif datum.kind == "database":
        run_sql(host, PSQL, "postgres", f'drop database "{datum.name}" with (force);\n', action)
    elif datum.kind == "schema":
        database, _, schema = datum.name.partition(".")
        run_sql(host, PSQL, database, f'drop schema "{schema}" cascade;\n', action)
    else:
        _require_nothing_owned(host, datum.name)
        for database in _remaining(host):
            run_sql(host, PSQL, database, f'drop owned by "{datum.name}" cascade;\n', action)
        run_sql(host, PSQL, "postgres", f'drop role "{datum.name}";\n', action)


def _require_nothing_owned(host: Host, role: str) -> None:
    """Raise HomelabError if a role owns more than the deleted databases and schemas: no one agreed to delete these."""
    sql = (
        "select json_agg(distinct coalesce(d.datname, this.datname, 'the server')) from pg_shdepend "
        "left join pg_database as d on d.oid = dbid "
        "left join pg_database as this on classid = 'pg_database'::regclass and this.oid = objid "
        f"where refclassid = 'pg_authid'::regclass and refobjid = {literal(role)}::regrole and deptype = 'o'"
    )
    if found := _json(host, "postgres", sql):
        raise HomelabError(
            f"Cannot delete the role {role}: it owns further objects",
            f"They are in {', '.join(map(str, found))}, and were not in the list.",
            f"Delete them, or give them to another role with `reassign owned by`; `homelab ssh {host.name}` opens a "
            "shell. Then run this command again.",
        )


def _remaining(host: Host) -> Sequence[str]:
    """Return all databases: a role cannot be dropped while it has privileges in one."""
    sql = "select json_agg(datname) from pg_database where datallowconn and not datistemplate"
    return [str(each) for each in _json(host, "postgres", sql)]
