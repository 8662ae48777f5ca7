"""`homelab prune` on a real PostgreSQL 16: a removed service's database, schema, role and folder are deleted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab.commands.prune import prune
from homelab.host import Result
from homelab.inventory import load
from homelab.model import DatabaseGrant, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.services.registry import Registry
from homelab.steps.postgres_objects import PSQL
from tests.integration import pg
from tests.support import LocalHost, make_session

SET_UP = """
create database project_data; create database shop_history; create role shop login; create role other login;
comment on role shop is 'homelab';
alter database shop_history owner to shop; grant connect, temporary on database project_data to shop, other;
"""
IN_PROJECT = """
create schema raw; create table raw.rows (id int); grant usage on schema raw to shop, other;
grant select on raw.rows to shop, other; create schema shop authorization shop; create table shop.sold (id int);
alter table shop.sold owner to shop; alter default privileges in schema raw grant select on tables to shop;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop(Service):
    """A service with a database, a schema in a shared one, and a folder."""

    folder: str

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own a database and a schema, and read another schema."""
        return (
            DatabaseGrant("shop_history", "shop", "own"),
            DatabaseGrant("project_data", "shop", "own", "shop"),
            DatabaseGrant("project_data", "shop", "read", "raw"),
        )

    def data_folders(self) -> Sequence[str]:
        """Return its folder, a constant of the test."""
        return (FOLDER,)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return no steps."""
        return ()


FOLDER = "/nonexistent"  # set by the test


@dataclass
class DatabaseHost(LocalHost):
    """This machine, with the server of the test in the place of the container's."""

    psql: str = ""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        return super().run(command.replace(PSQL, self.psql), stdin=stdin, timeout=timeout)

    def close(self) -> None:
        """See Connection."""


def test_data_of_a_removed_service_are_deleted_and_others_stay(
    postgres: pg.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shop"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "today").write_text("x")
    (folder / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    monkeypatch.setattr("tests.integration.test_prune.FOLDER", str(folder))
    (tmp_path / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    registry = Registry(tmp_path)
    registry.add("shop", Shop)
    words = [f"{key}={shlex.quote(value)}" for key, value in postgres.environment("postgres").items()]
    host = DatabaseHost(psql=f"env {' '.join(words)} {postgres.program('psql')}")
    one = "containers: {analytics-platform: null, airflow-orchestration: null}\npipelines: null\n"
    (tmp_path / "own.yaml").write_text(one)
    inventory = load([tmp_path / "inventory.yaml", tmp_path / "own.yaml"])
    session = make_session(inventory, connector=lambda *_: host)
    with postgres.connect() as connection:
        for statement in SET_UP.strip().split(";")[:-1]:
            connection.execute(statement.encode())
    try:
        with postgres.connect("project_data") as connection:
            connection.execute(IN_PROJECT.encode())
        outcome = prune(session, "shop", registry, lambda lines: True)
        assert [each.kind for each in outcome.data] == ["database", "schema", "role", "folder"]
        assert not folder.exists()
        assert (tmp_path / "precious" / "file").exists()
        with postgres.connect("project_data") as connection:
            sql = "select to_regnamespace('shop') is null, has_table_privilege('other', 'raw.rows', 'select')"
            assert connection.execute(sql.encode()).fetchall() == [(True, True)]
        assert prune(session, "shop", registry, lambda lines: False).data == []
    finally:
        with postgres.connect() as connection:
            for name in ("project_data", "shop_history"):
                connection.execute(f"drop database if exists {name} with (force)".encode())
            for name in ("shop", "other"):
                connection.execute(f"drop role if exists {name}".encode())
