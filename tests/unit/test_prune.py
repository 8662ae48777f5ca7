"""The data that a removed service leaves: what belongs to it alone, and what others still use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.prune import Datum, prune
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Container, DatabaseGrant, Inventory, Service, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.services.leftovers import Leftovers, leftovers, pipeline_leftovers
from homelab.services.registry import Registry
from homelab.steps import remote_paths
from tests.support import make_session
from tests.unit.test_pipelines import with_prices

WITHOUT_AIRFLOW = "containers: {airflow-orchestration: {services: {airflow: null}}}"
WITHOUT_ANALYTICS = "containers: {airflow-orchestration: null, analytics-platform: {services: {analytics: null}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop(Service):
    """A service with a schema of its own in a shared database, and a required option."""

    token: str

    def database_grants(self) -> Sequence[DatabaseGrant]:
        return (
            DatabaseGrant("project_data", "shop", "own", "shop"),
            DatabaseGrant("project_data", "shop", "read", "raw"),
            DatabaseGrant("shop_history", "shop", "own"),
        )

    def data_folders(self) -> Sequence[str]:
        return ("/var/lib/shop", "/var/lib/airflow")  # the second one is also Airflow's

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        return ()


def inventory(folder: Path, overlay: str = "{}") -> Inventory:
    (folder / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    (folder / "own.yaml").write_text(overlay)
    return load([folder / "inventory.yaml", folder / "own.yaml"])


def test_removed_airflow_leaves_its_metadata_its_role_and_its_logs(tmp_path: Path) -> None:
    found = leftovers("airflow", Registry().get("airflow"), inventory(tmp_path, WITHOUT_AIRFLOW))
    assert found == Leftovers(["airflow_metadata"], [], ["airflow_admin"], ["/var/lib/airflow"])


def test_raw_data_never_belong_to_one_service(tmp_path: Path) -> None:
    found = leftovers("analytics", Registry().get("analytics"), inventory(tmp_path, WITHOUT_ANALYTICS))
    assert found == Leftovers([], [], [], ["/opt/analytics-platform/pipelines", "/var/lib/homelab-publications"])


def test_data_that_another_service_uses_stay(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    found = leftovers("shop", Shop, wanted)
    folders = ["/var/lib/airflow", "/var/lib/shop"]
    assert found == Leftovers(["shop_history"], [("project_data", "shop")], ["shop"], folders)
    answers = {"du -sb": "7"}
    session = make_session(wanted, connector=lambda container, *_: Recorded(container.name, answers))
    registry = Registry()
    registry.add("shop", Shop)
    data = prune(session, "shop", registry, lambda lines: False).data
    assert sorted((each.container, each.name) for each in data if each.kind == "folder") == [
        ("airflow-orchestration", "/var/lib/shop"),  # its other folder belongs to Airflow there
        *product(("analytics-platform", "postgres-data"), folders),
    ]


def test_service_in_the_inventory_is_not_pruned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot prune airflow: it is in the inventory"):
        leftovers("airflow", Registry().get("airflow"), inventory(tmp_path))


@dataclass(frozen=True, kw_only=True)
class Share(Service):
    """A service with instances, each with a folder."""

    instances = True

    def data_folders(self) -> Sequence[str]:
        return (f"/var/lib/{self.instance}",)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        return ()


def test_instance_has_data_of_its_own(tmp_path: Path) -> None:
    assert leftovers("share@photos", Share, inventory(tmp_path)) == Leftovers([], [], [], ["/var/lib/photos"])


@dataclass
class Recorded:
    """A container that answers probes by a part of their text, and records the commands that change something."""

    name: str
    answers: Mapping[str, str]
    ran: list[str] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        for part, answer in self.answers.items():
            if part in command and "head -c" not in command:
                return Result(command, 0, answer.encode())
        self.ran.append(command + stdin.decode(errors="replace"))
        return Result(command, 1 if "ls -A" in command else 0)

    def close(self) -> None:
        """See Connection."""


def pruning(folder: Path, answers: Mapping[str, Mapping[str, str]], agrees: bool) -> tuple[Any, list[str], list[str]]:
    hosts: dict[str, Recorded] = {}
    asked: list[str] = []

    def connect(container: Container, *_: object) -> Recorded:
        return hosts.setdefault(container.name, Recorded(container.name, answers.get(container.name, {})))

    def confirm(lines: Sequence[str]) -> bool:
        asked.extend(lines)
        return agrees

    session = make_session(inventory(folder, WITHOUT_AIRFLOW), connector=connect)
    outcome = prune(session, "airflow", Registry(), confirm)
    deleted = [text for host in hosts.values() for text in host.ran if "drop " in text or "-delete" in text]
    return outcome, asked, deleted


FOUND = {
    "postgres-data": {
        "pg_database_size": json.dumps({"airflow_metadata": 3 << 20}),
        "pg_roles": '["airflow_admin"]',
        "datistemplate": '["postgres", "project_data"]',
    },
    "airflow-orchestration": {"du -sb": "1048576"},
}


def test_data_are_listed_before_they_are_deleted(tmp_path: Path) -> None:
    outcome, asked, deleted = pruning(tmp_path, FOUND, agrees=False)
    assert asked == [
        "postgres-data: database airflow_metadata, 3.0 MiB",
        "postgres-data: role airflow_admin",
        "airflow-orchestration: folder /var/lib/airflow, 1.0 MiB",
    ]
    assert (outcome.confirmed, deleted) == (False, [])


def test_confirmed_data_are_deleted(tmp_path: Path) -> None:
    outcome, asked, deleted = pruning(tmp_path, FOUND, agrees=True)
    assert [str(each) for each in outcome.data] == asked
    assert outcome.data[0] == Datum("postgres-data", "database", "airflow_metadata", 3 << 20)
    texts = "\n".join(deleted)
    assert 'drop database "airflow_metadata" with (force);' in texts
    assert texts.count('drop owned by "airflow_admin" cascade;') == 2
    assert 'drop role "airflow_admin";' in texts
    assert "find /var/lib/airflow -mindepth 1 -delete" in texts


def test_only_objects_of_roles_that_homelab_made_are_found(tmp_path: Path) -> None:
    ran: list[str] = []

    class Listening(Recorded):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
            """See Host.run."""
            ran.append(getattr(command, "sql", ""))
            return Result(command, 0)

    session = make_session(inventory(tmp_path), connector=lambda container, *_: Listening(container.name, {}))
    with pytest.raises(InputError, match="Cannot prune alice: unknown service"):
        prune(session, "alice", Registry(), lambda lines: True)
    databases, lake, schemas, roles = filter(None, ran)
    assert lake == "select to_json(exists (select from pg_database where datname = 'lake'))"
    assert "shobj_description(datdba, 'pg_authid') = 'homelab'" in databases
    assert "shobj_description(nspowner, 'pg_authid') = 'homelab'" in schemas
    assert "shobj_description(oid, 'pg_authid') = 'homelab'" in roles


def test_role_that_owns_more_than_was_listed_stays(tmp_path: Path) -> None:
    found = {**FOUND, "postgres-data": {**FOUND["postgres-data"], "pg_shdepend": '["project_data"]'}}
    with pytest.raises(HomelabError, match="Cannot delete the role airflow_admin: it owns further objects") as caught:
        pruning(tmp_path, found, agrees=True)
    assert caught.value.details == "They are in project_data, and were not in the list."


def test_service_that_is_still_installed_is_not_pruned(tmp_path: Path) -> None:
    answers = {**FOUND, "airflow-orchestration": {f"cat {remote_paths.manifest()}": "directory /var/lib/airflow\n"}}
    with pytest.raises(HomelabError, match="Cannot prune airflow: it is still installed on airflow-orchestration"):
        pruning(tmp_path, answers, agrees=True)


def test_second_prune_finds_nothing(tmp_path: Path) -> None:
    outcome, asked, deleted = pruning(tmp_path, {}, agrees=True)
    assert (str(outcome), asked, deleted) == ("Nothing to do: airflow has no data.", [], [])


@pytest.mark.parametrize("name", ["airflwo", "nothing", "No"])
def test_unknown_service_is_an_error(tmp_path: Path, name: str) -> None:
    session = make_session(inventory(tmp_path), connector=lambda container, *_: Recorded(container.name, {}))
    with pytest.raises(InputError, match=f"Cannot prune {name}: unknown service"):
        prune(session, name, Registry(), lambda lines: True)


def test_removed_pipeline_leaves_its_schema_its_roles_and_its_folder(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    folder = "/opt/analytics-platform/pipelines/prices"
    schemas = [("lake", "prices"), ("project_data", "prices")]
    assert pipeline_leftovers("prices", wanted) == Leftovers([], schemas, ["prices", "prices_dbt"], [folder])
    answers = {"postgres-data": {"to_regnamespace": "true"}, "analytics-platform": {"du -sb": "7"}}
    asked = list[str]()
    session = make_session(
        wanted, connector=lambda container, *_: Recorded(container.name, answers.get(container.name, {}))
    )

    def refuse(lines: Sequence[str]) -> bool:
        asked.extend(lines)
        return False

    assert not prune(session, "prices", Registry(), refuse).confirmed
    assert asked == ["postgres-data: schema project_data.prices", f"analytics-platform: folder {folder}, 0.0 MiB"]


def test_pipeline_in_the_inventory_is_not_pruned(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot prune prices: it is in the inventory"):
        pipeline_leftovers("prices", with_prices(tmp_path))
