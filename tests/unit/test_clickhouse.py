"""The service clickhouse and `target: clickhouse`: the inventory, the server's files, the pipeline's files, the move.

No package registry has the server: no test runs it. tests/integration/test_clickhouse.py runs its engine.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab.commands.pipeline_move import move
from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.kubernetes.stack_export import stack_export
from homelab.model import Inventory, ServiceContext, Step
from homelab.runtime.convergence import steps_of
from homelab.services.clickhouse import ClickHouse
from homelab.steps import File, Packages, Venv
from tests.scripts import SHARED_SCRIPTS  # noqa: F401 - makes the scripts importable
from tests.support import FixedSecretStore
from tests.unit.test_lake import answering, inventory
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT
from tests.unit.test_pipelines import file
from tests.unit.test_pipelines import steps as pipeline_steps

import contract  # isort: skip

SOURCE = {"uri": "https://packages.clickhouse.com/deb", "suite": "stable", "components": ["main"]}
ROOT = "/opt/analytics-platform/pipelines/weather"


def overlay(**options: object) -> dict[str, Any]:
    box = {"vmid": 177, "ip": ".77", "cores": 2, "memory": 4096, "services": {"clickhouse": options}}
    repository = {**SOURCE, "key": "clickhouse.asc", "fingerprint": FINGERPRINT}
    return {"containers": {"olap": box}, "packages": {"repositories": {"clickhouse": repository}}}


def in_clickhouse(folder: Path, **options: object) -> Inventory:
    (folder / "clickhouse.asc").write_text(BOOKWORM)
    return inventory(folder, {"weather": {"target": "clickhouse"}}, overlay(**options))


def server_steps(found: Inventory) -> list[Step]:
    container = found.container_with("clickhouse")
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys={})
    return list(steps_of(context))


def test_server_listens_with_tls_only(tmp_path: Path) -> None:
    found = in_clickhouse(tmp_path, memory_limit="2GB")
    steps = server_steps(found)
    config = ET.fromstring(file(steps, "/etc/homelab/clickhouse/config.xml"))  # noqa: S314
    assert config.findtext("listen_host") == str(found.container_with("clickhouse").address)
    assert [each.tag for each in config if each.tag.endswith("port")] == ["https_port"]
    assert config.findtext("openSSL/server/certificateFile") == "/etc/ssl/homelab/clickhouse.pem"
    assert config.findtext("max_server_memory_usage") == "2000000000"
    # The drop-in is there before the package starts its unit.
    drop_in = next(
        each
        for each in steps
        if isinstance(each, File) and each.path.endswith("clickhouse-server.service.d/homelab.conf")
    )
    package = next(each for each in steps if isinstance(each, Packages) and "clickhouse-server" in each.names)
    assert steps.index(drop_in) < steps.index(package)
    text = drop_in.content.decode()
    assert '"--config-file=/etc/homelab/clickhouse/config.xml"' in text
    assert "NoNewPrivileges=yes" in text
    assert "CapabilityBoundingSet=CAP_IPC_LOCK" in text


def test_users_have_hashes_and_their_own_databases(tmp_path: Path) -> None:
    found = in_clickhouse(tmp_path, readers=["grafana"])
    steps = server_steps(found)
    (users,) = [each for each in steps if isinstance(each, File) and each.path.endswith("users.xml")]
    assert users.secret
    assert users.mode == 0o640
    root = ET.fromstring(users.content)  # noqa: S314
    names = [each.tag for each in root.findall("users/*")]
    assert names == ["pipeline_weather", "grafana"]
    for name in names:
        password = FixedSecretStore().secret(f"clickhouse-{name}").reveal()
        assert root.findtext(f"users/{name}/password_sha256_hex") == hashlib.sha256(password.encode()).hexdigest()
        assert password not in users.content.decode()
        assert root.findtext(f"users/{name}/networks/ip") == str(found.network.subnet)
    assert [each.text for each in root.findall("users/grafana/grants/query")] == ["GRANT SELECT ON weather.*"]
    assert root.findtext("users/grafana/profile") == "reader"
    assert root.findtext("profiles/reader/readonly") == "2"
    granted = [each.text for each in root.findall("users/pipeline_weather/grants/query")]
    there = contract.CLICKHOUSE_DATABASES
    databases = (there["landed"], *there["built"], there["published"])
    assert [each for each in granted if each and "ALL" in each] == [f"GRANT ALL ON {name}.*" for name in databases]


def test_service_without_its_repository_is_refused(tmp_path: Path) -> None:
    containers = {"containers": overlay()["containers"]}
    found = inventory(tmp_path, {"weather": {"target": "clickhouse"}}, containers)
    with pytest.raises(InputError, match="Cannot deploy clickhouse: no repository of the inventory has its packages"):
        server_steps(found)


def test_pipeline_has_the_login_a_profile_and_a_venv_of_its_own(tmp_path: Path) -> None:
    found = in_clickhouse(tmp_path)
    steps = pipeline_steps(found, "analytics")
    environment = file(steps, f"{ROOT}/pipeline.env").splitlines()
    address = found.container_with("clickhouse").address
    for line in (f"CLICKHOUSE_HOST={address}", "CLICKHOUSE_PORT=8443", "CLICKHOUSE_USER=pipeline_weather"):
        assert line in environment
    assert not any("PASSWORD" in line for line in environment)
    assert "CLICKHOUSE_PASSWORD=" in file(steps, f"{ROOT}/secrets.env")
    outputs = yaml.safe_load(file(steps, f"{ROOT}/profiles.yml"))["weather"]["outputs"]
    assert list(outputs) == ["warehouse", "clickhouse"]
    assert outputs["clickhouse"]["secure"] is True
    settings = {name: str(value) for name, value in outputs["clickhouse"]["custom_settings"].items()}
    assert settings == contract.CLICKHOUSE_SETTINGS
    assert (settings["session_timezone"], settings["join_use_nulls"]) == ("UTC", "1")
    venvs = [each.path for each in steps if isinstance(each, Venv)]
    assert "/opt/analytics-platform/clickhouse-venv" in venvs


def test_pipeline_in_a_file_has_nothing_of_it(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"weather": {"target": "file"}}, {})
    steps = pipeline_steps(found, "analytics")
    assert "CLICKHOUSE" not in file(steps, f"{ROOT}/pipeline.env") + file(steps, f"{ROOT}/secrets.env")
    assert "/opt/analytics-platform/clickhouse-venv" not in [each.path for each in steps if isinstance(each, Venv)]


@pytest.mark.parametrize(
    ("pipelines", "has_service", "problem"),
    [
        ({"weather": {"target": "clickhouse"}}, False, "needs the service `clickhouse`, which no container has"),
        ({"weather": {"target": "clickhouse", "days": "local"}}, True, "needs `days: utc`"),
        ({"prices": {"path": "pipelines/prices", "target": "clickhouse"}}, True, "must be one of 'file', 'lake'"),
    ],
)
def test_target_that_cannot_be_is_a_problem(
    tmp_path: Path, pipelines: dict[str, Any], has_service: bool, problem: str
) -> None:
    new_pipeline(tmp_path, "prices")
    (tmp_path / "clickhouse.asc").write_text(BOOKWORM)
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, dict(pipelines), overlay() if has_service else {})
    assert problem in caught.value.details


@pytest.mark.parametrize(
    ("readers", "problem"),
    [
        (["grafana", "grafana"], "already in the list"),
        (["pipeline_weather"], "apart from pipeline_weather"),
        (["Grafana"], "lower-case letters"),
    ],
)
def test_readers_that_cannot_be_are_problems(tmp_path: Path, readers: list[str], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        in_clickhouse(tmp_path, readers=readers)
    assert problem in caught.value.details


def test_port_is_open_for_the_pipelines_or_for_all() -> None:
    (stack,), (lan,) = ClickHouse().endpoints(), ClickHouse(clients="lan").endpoints()
    assert (stack.audience, stack.restricted, stack.tls) == ("dependents", True, True)
    assert (lan.audience, lan.restricted, lan.tls) == ("lan", False, True)


def test_move_asks_for_the_target(tmp_path: Path) -> None:
    session, host = answering(in_clickhouse(tmp_path), 0, '{"moved": true, "tables": 20, "rows": 7}')
    assert str(move(session, None, "clickhouse")).startswith("weather: 20 tables with 7 rows copied to ClickHouse")
    assert f"move_target.py --data {ROOT}/data --to clickhouse" in host.commands[0]
    with pytest.raises(InputError, match="the pipeline has no lake"):
        move(session, None, "lake")
    session, _ = answering(inventory(tmp_path, {}), 0)
    with pytest.raises(InputError, match="the pipeline has no ClickHouse") as caught:
        move(session, "weather", "clickhouse")
    assert "docs/how-to/clickhouse.md" in caught.value.resolution


def test_export_to_kubernetes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the service `clickhouse` builds its models"):
        stack_export(in_clickhouse(tmp_path), FixedSecretStore())
