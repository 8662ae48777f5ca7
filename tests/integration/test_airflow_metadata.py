"""Connections, variables and pools on a real PostgreSQL 16, in the tables of both Airflow series."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import AirflowObjects, Connection, Pending, Pool, Secret, SecretName
from homelab.progress import SilentProgress
from homelab.services.airflow_metadata import DATABASE_ENVIRONMENT, metrics
from homelab.services.airflow_rows import MetadataRows
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration import pg
from tests.support import LocalHost

KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
SECRETS = {name: Secret(f"secret-of-{name}'\"\\") for name in ("warehouse", "token")}
# As `airflow db migrate` makes them.
TABLES = """
create table connection (id serial primary key, conn_id varchar(250) not null unique, conn_type varchar(500) not null,
    description text, host varchar(500), schema varchar(500), login text, port integer, password text, extra text,
    is_encrypted boolean {constraint}, is_extra_encrypted boolean {constraint}{team});
create table variable (id serial primary key, key varchar(250) unique, val text, description text,
    is_encrypted boolean {constraint}{team});
create table slot_pool (id serial primary key, pool varchar(256) unique, slots integer, description text,
    include_deferred boolean not null{team});
create table dag (dag_id varchar(250) primary key, is_paused boolean, {stale} boolean);
insert into dag values ('weather', false, {kept}), ('prices', true, {kept}), ('removed', false, not {kept});
create table dag_run (dag_id varchar(250), state varchar(50), start_date timestamptz, end_date timestamptz);
create table job (job_type varchar(30), state varchar(20), latest_heartbeat timestamptz);
create table import_error (id serial primary key, filename varchar(1024), stacktrace text);
insert into slot_pool (pool, slots, description, include_deferred) values ('default_pool', 128, 'Default pool', false);
"""
SERIES = {
    "3.3": {"constraint": "not null", "team": ", team_name varchar(50)", "stale": "is_stale", "kept": "false"},
    "2.11": {"constraint": "", "team": "", "stale": "is_active", "kept": "true"},
}
WAREHOUSE = Connection(
    conn_type="postgres",
    host="10.0.0.5",
    login="it's",
    port=5432,
    password=SecretName("warehouse"),
    extra={"sslmode": "require", "nested": {"token": SecretName("token")}},
)
OBJECTS = AirflowObjects(
    connections={"warehouse": WAREHOUSE, "api": Connection(conn_type="no such type")},
    variables={"region": "eu", "limits": {"rows": 1000}, "key": SecretName("token"), "on": True},
    pools={"few": Pool(slots=2), "all": Pool(slots=-1, include_deferred=True, description="no limit")},
)


@dataclass
class MetadataHost(LocalHost):
    """This machine, with the environment of a database in the place of Airflow's."""

    environment: str = ""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        return super().run(command.replace(DATABASE_ENVIRONMENT, self.environment), stdin=stdin, timeout=timeout)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        return super().batch([command.replace(DATABASE_ENVIRONMENT, self.environment) for command in commands])


@dataclass(frozen=True)
class Metadata:
    """A metadata database, and the host that reaches it."""

    server: pg.Server
    database: str
    host: MetadataHost

    def sql(self, text: str) -> list[Any]:
        """Run SQL and return the first column."""
        with self.server.connect(self.database) as connection:
            done = connection.execute(text.encode())
            return [row[0] for row in done.fetchall()] if done.description else []

    def deploy(self, objects: AirflowObjects) -> list[str]:
        """Converge, and check that a second run has nothing to do; return the reasons of the changes."""
        changes = converge(self.host, [rows(objects)], SilentProgress())
        assert pending_changes(self.host, [rows(objects)]) == []
        return [change.pending.reason for change in changes]


def rows(objects: AirflowObjects, key: str = KEY) -> MetadataRows:
    return MetadataRows(objects, SECRETS, Secret(key))


@pytest.fixture(params=SERIES)
def metadata(postgres: pg.Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Metadata]:
    with postgres.database("airflow_metadata") as database:
        path = f"{Path(postgres.program('psql')).parent}:$PATH"
        values = {key: shlex.quote(value) for key, value in postgres.environment(database).items()}
        lines = [f"{key}={value}" for key, value in {**values, "PATH": path}.items()]
        (tmp_path / "database.env").write_text("\n".join(lines))
        found = Metadata(postgres, database, MetadataHost(environment=str(tmp_path / "database.env")))
        found.sql(TABLES.format(**SERIES[request.param]))
        yield found


def test_objects_are_created_encrypted_and_removed_again(metadata: Metadata) -> None:
    metadata.deploy(OBJECTS)
    fernet = Fernet(KEY)
    ((password, extra),) = metadata.sql("select array[password, extra] from connection where conn_id = 'warehouse'")
    assert fernet.decrypt(password).decode() == SECRETS["warehouse"].reveal()
    assert json.loads(fernet.decrypt(extra)) == {"sslmode": "require", "nested": {"token": SECRETS["token"].reveal()}}
    assert metadata.sql("select login || port from connection where conn_id = 'warehouse'") == ["it's5432"]
    values = dict(metadata.sql("select array[key, val] from variable where is_encrypted"))
    assert {key: fernet.decrypt(value).decode() for key, value in values.items()} == {
        "region": "eu",
        "limits": '{"rows": 1000}',
        "key": SECRETS["token"].reveal(),
        "on": "true",
    }
    assert not [text for text in metadata.host.ran if "secret-of-" in text]
    assert metadata.deploy(AirflowObjects()) == [
        "remove connection api, remove connection warehouse, remove variable key, remove variable limits, "
        "remove variable on, remove variable region, remove pool all, remove pool few"
    ]
    assert metadata.sql("select pool from slot_pool") == ["default_pool"]
    assert metadata.sql("select count(*) from connection") + metadata.sql("select count(*) from variable") == [0, 0]


def test_objects_of_the_web_ui_stay_and_are_not_overwritten(metadata: Metadata) -> None:
    metadata.sql("insert into variable (key, val, is_encrypted) values ('mine', '1', false), ('region', 'us', false)")
    metadata.sql("insert into slot_pool (pool, slots, include_deferred) values ('few', 2, false)")
    (change,) = pending_changes(metadata.host, [rows(OBJECTS)])
    assert (change.pending.effect, change.pending.reason) == ("refused", "made by hand, and different: variable region")
    with pytest.raises(HomelabError, match="Cannot change Airflow's variable region: it was made by hand"):
        metadata.deploy(OBJECTS)
    assert metadata.sql("select val from variable order by 1") == ["1", "us"]
    metadata.sql("update variable set val = 'eu' where key = 'region'")  # equal ones are taken over
    metadata.deploy(OBJECTS)
    metadata.deploy(AirflowObjects())
    assert metadata.sql("select key from variable") == ["mine"]


def test_change_by_hand_is_shown_without_secrets_and_reverted(metadata: Metadata) -> None:
    metadata.deploy(OBJECTS)
    metadata.sql(
        "update connection set host = '10.0.0.9', password = 'typed', is_encrypted = false, is_extra_encrypted = false,"
        """ extra = '{"sslmode": "disable", "password": "typed", "nested": {}}' where conn_id = 'warehouse'"""
    )
    metadata.sql("delete from slot_pool where pool = 'all'")
    (change,) = pending_changes(metadata.host, [rows(OBJECTS)])
    assert change.pending.reason == "change connection warehouse, create pool all"
    diff = change.pending.diff
    assert "-  host: 10.0.0.9\n" in diff
    assert "+  host: 10.0.0.5\n" in diff
    assert '-  extra: {"nested": {}, "password": "(not shown)", "sslmode": "(another value)"}\n' in diff
    assert '+  extra: {"nested": {"token": "(secret)"}, "sslmode": "require"}\n' in diff
    assert "-  password: (another value)\n" in diff
    assert "typed" not in diff
    assert "secret-of-" not in diff
    metadata.deploy(OBJECTS)
    assert metadata.sql("select host from connection where conn_id = 'warehouse'") == ["10.0.0.5"]


def test_new_secret_is_written(metadata: Metadata) -> None:
    metadata.deploy(OBJECTS)
    step = replace(rows(OBJECTS), secrets={**SECRETS, "token": Secret("new")})
    (change,) = converge(metadata.host, [step], SilentProgress())
    assert change.pending.reason == "change connection warehouse, change variable key"
    assert "new" not in change.pending.diff
    (value,) = metadata.sql("select val from variable where key = 'key'")
    assert Fernet(KEY).decrypt(value) == b"new"


def test_values_of_another_fernet_key_are_written_again(metadata: Metadata) -> None:
    metadata.deploy(OBJECTS)
    other = base64.urlsafe_b64encode(b"o" * 32).decode()
    converge(metadata.host, [rows(OBJECTS, other)], SilentProgress())
    (value,) = metadata.sql("select val from variable where key = 'region'")
    assert Fernet(other).decrypt(value) == b"eu"


def test_nothing_is_known_without_a_connection() -> None:
    (probe,) = rows(OBJECTS).probes()
    assert rows(OBJECTS).check([Result(probe, 2)]) == Pending("not known yet")
    assert rows(AirflowObjects()).check([Result(probe, 2)]) is None


@pytest.mark.parametrize("text", ["[]", "{}x", '{"connection": 1}', '{"variable": {"comment": "homelab: x"}}', "null"])
def test_answer_of_another_format_is_pending(text: str) -> None:
    (probe,) = rows(OBJECTS).probes()
    assert rows(OBJECTS).check([Result(probe, 0, text.encode())])


def test_objects_are_pending_before_the_tables_exist(metadata: Metadata) -> None:
    metadata.sql("drop table variable")
    assert [change.pending.diff != "" for change in pending_changes(metadata.host, [rows(OBJECTS)])] == [True]
    assert pending_changes(metadata.host, [rows(AirflowObjects())]) == []


def test_metrics_have_the_scheduler_and_the_last_run_of_each_dag(metadata: Metadata) -> None:
    metadata.sql(
        """insert into job values ('SchedulerJob', 'running', 'epoch'::timestamptz + interval '5 s'),
        ('LocalTaskJob', 'running', now());
        insert into import_error (filename) values ('broken.py');
        insert into dag_run values
        ('weather', 'failed', 'epoch'::timestamptz, 'epoch'::timestamptz + interval '10 s'),
        ('weather', 'success', 'epoch'::timestamptz + interval '20 s', 'epoch'::timestamptz + interval '23.5 s'),
        ('weather', 'running', now(), null),
        ('removed', 'failed', 'epoch'::timestamptz, 'epoch'::timestamptz + interval '1 s')"""
    )
    (found,) = metadata.host.batch([metrics()])
    assert sorted(found.text.splitlines()) == [
        'homelab_airflow_dag_last_run_duration_seconds{dag="weather"} 3.5',
        'homelab_airflow_dag_last_run_success{dag="weather"} 1.0',
        'homelab_airflow_dag_last_run_timestamp_seconds{dag="weather"} 23.5',
        'homelab_airflow_dag_paused{dag="prices"} 1.0',
        'homelab_airflow_dag_paused{dag="weather"} 0.0',
        'homelab_airflow_dag_runs{dag="weather",state="running"} 1.0',
        "homelab_airflow_import_errors 1.0",
        "homelab_airflow_scheduler_heartbeat_timestamp_seconds 5.0",
    ]
