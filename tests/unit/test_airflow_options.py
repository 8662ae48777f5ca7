"""The user's part of Airflow in the inventory: DAGs, connections, variables and pools, and the errors in it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.fernet import Fernet

from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import AirflowObjects, Connection, Inventory, Secret, SecretName, ServiceContext, Step
from homelab.model.secret_store import user_secrets
from homelab.model.stages import STAGES
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.secrets import FileSecretStore
from homelab.services.airflow import Airflow
from homelab.services.airflow_dags import files_of
from homelab.services.airflow_rows import MetadataRows
from homelab.steps import File, SystemdUnit, Tree
from tests.support import FixedSecretStore
from tests.unit.test_one_fault import FULL, full

KEYS = {"analytics-platform": "ssh-ed25519 AAAAHost"}
AIRFLOW = "containers: {{airflow-orchestration: {{services: {{airflow: {{version: '{version}', {text}}}}}}}}}"


def inventory(folder: Path, text: str, version: str = "3.3") -> Inventory:
    (folder / "own.yaml").write_text(AIRFLOW.format(text=text, version=version))
    return load([bundled_path("inventory.yaml"), folder / "own.yaml"])


def airflow(found: Inventory) -> Airflow:
    service = found.container_with("airflow").services["airflow"]
    assert isinstance(service, Airflow)
    return service


def steps(found: Inventory) -> Sequence[Step]:
    container = found.container_with("airflow")
    return steps_of(
        ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
    )


def folder_of_dags(folder: Path) -> Path:
    dags = folder / "dags"
    for name in ("prices.py", "lib/logs/parse.py", ".airflowignore", ".git/config", "lib/__pycache__/x.pyc", ".env"):
        (dags / name).parent.mkdir(parents=True, exist_ok=True)
        (dags / name).write_text(name)
    return dags


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dags: nothing", "airflow.dags: {folder}/nothing is not a folder: create it, or correct the path"),
        ("dags: own.yaml", "airflow.dags: {folder}/own.yaml is not a folder: create it, or correct the path"),
        ("connections: {a b: {conn_type: http}}", "airflow.connections.a b: must be a connection id: letters, digits"),
        ("connections: {analytics: {conn_type: ssh}}", "and not ingestion or analytics, which are homelab's own"),
        ("connections: {a: {host: x}}", "airflow.connections.a.conn_type: is missing: text"),
        ("connections: {a: {conn_type: http, port: 0}}", "a.port: must be a whole number from 1 to 65535, not 0"),
        ("connections: {a: {conn_type: http, hots: x}}", "a.hots: unknown key; did you mean `host`?"),
        (
            "connections: {a: {conn_type: http, password: hunter2}}",
            "a.password: must be {{secret: NAME}}, with the name of a secret in the lab's secret store, not the secret "
            "itself",
        ),
        (
            "connections: {a: {conn_type: http, extra: {b: [{secret: No Name}]}}}",
            "a.extra.b[0]: must be {{secret: NAME}}, with the name of a secret in the lab's secret store, not",
        ),
        ("variables: {a b: 1}", "airflow.variables.a b: must be a variable's key"),
        ('variables: {a: "x\\0"}', "airflow.variables.a: must be a value, not null, not"),
        ("pools: {default_pool: 5}", "and not default_pool, which is Airflow's own"),
        ("pools: {a: many}", "airflow.pools.a: must be a number of slots, or a mapping, not 'many'"),
        ("pools: {a: {slots: -2}}", "airflow.pools.a.slots: must be a whole number, at least -1, not -2"),
    ],
)
def test_error_has_file_and_line(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(InputError) as raised:
        inventory(tmp_path, text)
    assert f"own.yaml:1: containers.airflow-orchestration.services.{'airflow'}" in raised.value.details
    assert error.format(folder=tmp_path) in raised.value.details
    assert "hunter2" not in str(raised.value)


def test_variable_without_a_value_is_an_error(tmp_path: Path) -> None:
    """An overlay cannot have one: there, null removes the key."""
    text = bundled_path("inventory.yaml").read_text()
    options = "      airflow:\n        variables: {a: null}"
    own = tmp_path / "inventory.yaml"
    own.write_text(re.sub(r"^      airflow:.*$", options, text, count=1, flags=re.MULTILINE))
    with pytest.raises(InputError, match="Cannot load") as raised:
        load([own])
    assert "airflow.variables.a: must be a value, not null" in raised.value.details


def test_values_keep_their_types(tmp_path: Path) -> None:
    found = airflow(
        inventory(
            tmp_path,
            "variables: {text: eu, number: 5, list: [1, {secret: a}], flag: true, key: {secret: b}}, "
            "connections: {c: {conn_type: http, host: {secret: url}, extra: {deep: {token: {secret: t}}}}}, "
            "pools: {few: 2, all: {slots: -1}}",
        )
    )
    assert found.variables == {"text": "eu", "number": 5, "list": [1, "a"], "flag": True, "key": "b"}
    assert isinstance(found.variables["list"][1], SecretName)
    assert isinstance(found.connections["c"].extra["deep"]["token"], SecretName)
    assert isinstance(found.connections["c"].host, SecretName)
    assert {name: pool.slots for name, pool in found.pools.items()} == {"few": 2, "all": -1}


def test_secret_that_homelab_generates_is_refused(tmp_path: Path) -> None:
    found = inventory(tmp_path, "variables: {key: {secret: postgres-analytics}, own: {secret: stamps-of-mine}}")
    store = FileSecretStore(tmp_path / "state")
    for name in ("postgres-analytics", "stamps-of-mine"):
        store.set(name, "x")
    container = found.container_with("airflow")
    context = ServiceContext(inventory=found, container=container, secret_store=store, host_keys=KEYS)
    with pytest.raises(InputError) as raised:
        steps_of(context)
    assert raised.value.brief == "Cannot use the secret postgres-analytics: reserved for homelab"
    assert "own.yaml:1: {secret: postgres-analytics}" in raised.value.details


class Recorder(FixedSecretStore):
    """A store that notes the names of the secrets that it generates."""

    generated: ClassVar[set[str]] = set()

    def secret(self, name: str) -> Secret:
        """See SecretStore."""
        self.generated.add(name)
        return FixedSecretStore.secret(self, name)

    def known_secret(self, name: str) -> Secret | None:
        """See SecretStore."""
        return FixedSecretStore.secret(self, name)

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """See SecretStore."""
        return FixedSecretStore.secret(self, name), self.public


def test_every_secret_that_homelab_generates_is_refused(tmp_path: Path) -> None:
    document = deepcopy(FULL)
    key = tmp_path / "key"
    key.write_text("key")
    key.chmod(0o600)
    document["pipelines"]["weather"]["api_key_file"] = str(key)
    document["containers"]["olap"]["services"]["clickhouse"]["readers"] = ["grafana"]
    found, store = full(tmp_path, document), Recorder()
    for container in found.containers:
        keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
        steps_of(ServiceContext(inventory=found, container=container, secret_store=store, host_keys=keys))
    assert len(store.generated) > 20
    for name in sorted(store.generated):
        with pytest.raises(InputError, match="reserved for homelab"):
            user_secrets(store, [SecretName(name)])


def test_missing_secrets_are_listed_with_their_lines(tmp_path: Path) -> None:
    found = inventory(
        tmp_path,
        "variables: {known: {secret: known}, key: {secret: api-key}}, "
        "connections: {c: {conn_type: http, password: {secret: c-password}}}",
    )
    store = FileSecretStore(tmp_path / "state")
    store.set("known", "x")
    container = found.container_with("airflow")
    context = ServiceContext(inventory=found, container=container, secret_store=store, host_keys=KEYS)
    with pytest.raises(InputError) as raised:
        steps_of(context)
    assert raised.value.brief == "Cannot use the secrets c-password, api-key: not set"
    assert "own.yaml:1: {secret: api-key}" in raised.value.details
    assert raised.value.resolution == "Run `homelab secret set c-password`.\nRun `homelab secret set api-key`."
    assert "api-key" not in store.names()


def test_only_visible_files_of_the_folder_are_copied(tmp_path: Path) -> None:
    assert files_of(folder_of_dags(tmp_path)) == {
        name: name.encode() for name in (".airflowignore", "lib/logs/parse.py", "prices.py")
    }


def file(found: Sequence[Step], path: str) -> str:
    return next(step.content.decode() for step in found if isinstance(step, File) and step.path == path)


def test_dags_are_bundles_on_airflow_3(tmp_path: Path) -> None:
    folder_of_dags(tmp_path)
    found = steps(inventory(tmp_path, "dags: dags"))
    line = next(x for x in file(found, "/etc/homelab/airflow.env").splitlines() if "DAG_BUNDLE_CONFIG_LIST" in x)
    bundles = json.loads(line.partition("=")[2].strip("'"))
    assert {each["name"]: each["kwargs"]["path"] for each in bundles} == {
        "weather": "/opt/airflow/bundles/weather",
        "user": "/opt/airflow/bundles/user",
    }
    trees = {step.path: step for step in found if isinstance(step, Tree)}
    assert {path: sorted(tree.files) for path, tree in trees.items()} == {
        "/opt/airflow/bundles/weather": ["weather_ingestion_pipeline.py"],
        "/opt/airflow/bundles/user": [".airflowignore", "lib/logs/parse.py", "prices.py"],
    }
    assert {path: tree.part for path, tree in trees.items()} == {
        "/opt/airflow/bundles/weather": "the pipeline weather",
        "/opt/airflow/bundles/user": "the DAGs in dags/",
    }
    assert trees["/opt/airflow/bundles/user"].validate.endswith(" weather_ingestion_pipeline")
    units = [step for step in found if isinstance(step, SystemdUnit)]
    assert not [unit for unit in units if set(trees.values()) & set(unit.triggered_by)]  # Airflow finds new files


def test_dags_are_subfolders_on_airflow_2(tmp_path: Path) -> None:
    folder_of_dags(tmp_path)
    found = steps(inventory(tmp_path, "dags: dags", "2.11"))
    settings = file(found, "/etc/homelab/airflow.env")
    assert "AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/bundles\n" in settings
    assert "PYTHONPATH=/opt/airflow/python\n" in settings
    assert "BUNDLE" not in settings
    assert '"/opt/airflow/bundles/user",' in file(found, "/opt/airflow/python/airflow_local_settings.py")
    assert file(found, "/opt/airflow/bundles/.airflowignore") == "^[^/]+\\.(new|old)$\n"


def test_inventory_without_dags_has_one_bundle(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, ""))
    assert [step.path for step in found if isinstance(step, Tree)] == ["/opt/airflow/bundles/weather"]


MANIFEST = """
commands: {fetch: scripts/fetch.py}
connections: {shop: {conn_type: http, host: shop.example.org, password: {secret: shop}}}
variables: {currency: EUR}
pools: {shop: 1}
"""


def with_pipeline(folder: Path, manifest: str, text: str = "variables: {region: eu}") -> Inventory:
    (folder / "prices" / "scripts").mkdir(parents=True)
    (folder / "prices" / "scripts" / "fetch.py").touch()
    (folder / "prices" / "pipeline.yaml").write_text(manifest)
    (folder / "pipelines.yaml").write_text("pipelines: {prices: {path: prices}}")
    (folder / "own.yaml").write_text(AIRFLOW.format(text=text, version="3.3"))
    return load([bundled_path("inventory.yaml"), folder / "own.yaml", folder / "pipelines.yaml"])


def test_pipeline_brings_its_own_connections_variables_and_pools(tmp_path: Path) -> None:
    (rows,) = (step for step in steps(with_pipeline(tmp_path, MANIFEST)) if isinstance(step, MetadataRows))
    assert rows.objects.connections["shop"].host == "shop.example.org"
    assert rows.objects.variables == {"region": "eu", "currency": "EUR"}
    assert rows.objects.pools["shop"].slots == 1
    assert list(rows.secrets) == ["shop"]


def test_object_that_is_declared_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        with_pipeline(tmp_path, MANIFEST, "variables: {currency: USD}")
    assert (
        "the variable currency of Airflow is declared by the service `airflow` and by the pipeline `prices`"
    ) in raised.value.details


def test_error_in_a_manifest_has_its_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        with_pipeline(tmp_path, MANIFEST.replace("{shop: 1}", "{default_pool: 1}"))
    assert "prices/pipeline.yaml:5: pools.default_pool: must be a pool's name" in raised.value.details


@pytest.mark.parametrize("name", STAGES)
def test_connections_of_homelab_are_reserved(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as raised:
        with_pipeline(tmp_path, MANIFEST.replace("{shop: {", f"{{{name}: {{"))
    assert f"connections.{name}: must be a connection id" in raised.value.details


@pytest.mark.parametrize("encrypted", [True, False])
def test_plan_hides_the_value_that_a_plain_one_replaces(encrypted: bool) -> None:
    """The earlier one may be a secret of the last deploy, or typed into the web UI."""
    key = base64.urlsafe_b64encode(b"k" * 32).decode()
    extra, value = '{"token": "hunter2"}', "hunter2"
    if encrypted:
        extra, value = (Fernet(key).encrypt(text.encode()).decode() for text in (extra, value))
    connection = {"conn_type": "http", "extra": extra, "is_extra_encrypted": encrypted, "host": "10.0.0.5"}
    found = {
        "connection": {"comment": 'homelab: ["shop"]', "rows": {"shop": connection}},
        "variable": {"comment": 'homelab: ["key"]', "rows": {"key": {"val": value, "is_encrypted": encrypted}}},
    }
    shop = Connection(conn_type="http", extra={"token": "none"}, host="10.0.0.6")
    objects = AirflowObjects(connections={"shop": shop}, variables={"key": "none"})
    columns = {"port": None, "schema": None, "login": None, "password": None, "description": None}
    connection.update(columns)
    pending = MetadataRows(objects, {}, Secret(key)).check([Result("", 0, json.dumps(found).encode())])
    assert pending
    assert pending.reason == "change connection shop, change variable key"
    assert "hunter2" not in pending.diff
    assert "-  val: (another value)\n" in pending.diff
    assert "+  val: none\n" in pending.diff
    assert "-  host: 10.0.0.5\n" in pending.diff
