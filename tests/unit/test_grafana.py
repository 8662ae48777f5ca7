"""Grafana's files: its settings and provisioning parse, and its password reaches no command line.

Its packages come from its own repository, which the lab does not reach: no test runs it.
"""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest
import yaml

from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.scrape_targets import probe_targets, targets
from homelab.steps import Command, File, Tree
from tests.support import FixedSecretStore, observability
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT

REPOSITORY = {"uri": "https://apt.grafana.com", "suite": "stable", "components": ["main"], "key": "grafana.asc"}


def inventory(folder: Path, repositories: dict[str, object]) -> Inventory:
    (folder / "grafana.asc").write_text(BOOKWORM)
    overlay = folder / "overlay.yaml"
    overlay.write_text(
        json.dumps(
            {
                "packages": {"repositories": repositories},
                "containers": observability(prometheus={"scrape_interval": "1m"}, grafana={}),
            }
        )
    )
    return load([bundled_path("inventory.yaml"), overlay])


@pytest.fixture
def found(tmp_path: Path) -> Inventory:
    return inventory(tmp_path, {"grafana": {**REPOSITORY, "fingerprint": FINGERPRINT}})


def steps(found: Inventory) -> list[Step]:
    container = found.container_with("grafana")
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys={})
    return list(steps_of(context))


def text(found: Inventory, end: str) -> str:
    (file,) = [step for step in steps(found) if isinstance(step, File) and step.path.endswith(end)]
    return file.content.decode()


def test_grafana_without_its_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot deploy grafana: no repository of the inventory has its packages"):
        steps(inventory(tmp_path, {}))


def test_settings_bind_grafana_to_its_container_and_send_nothing_outside(found: Inventory) -> None:
    settings = configparser.ConfigParser()
    settings.read_string(text(found, "grafana.ini"))
    assert (settings["server"]["http_addr"], settings["server"]["http_port"]) == ("192.168.2.70", "3000")
    assert settings["paths"]["data"] == "/var/lib/homelab-grafana"
    assert {settings["analytics"][key] for key in settings["analytics"]} == {"false"}


def test_data_source_is_prometheus_with_its_interval(found: Inventory) -> None:
    (source,) = yaml.safe_load(text(found, "datasources/homelab.yaml"))["datasources"]
    assert (source["url"], source["jsonData"]["timeInterval"]) == ("http://192.168.2.70:9090", "60s")
    (provider,) = yaml.safe_load(text(found, "dashboards/homelab.yaml"))["providers"]
    (tree,) = [step for step in steps(found) if isinstance(step, Tree)]
    assert provider["options"]["path"] == tree.path
    assert {json.loads(content)["title"] for content in tree.files.values()} == {
        "Airflow",
        "Container",
        "Pipeline",
        "PostgreSQL",
        "Proxmox",
        "Stack",
    }
    uses = {panel["datasource"]["uid"] for each in tree.files.values() for panel in json.loads(each)["panels"]}
    assert uses == {source["uid"]}


def test_password_of_admin_comes_from_standard_input(found: Inventory) -> None:
    (admin,) = [step for step in steps(found) if isinstance(step, Command) and step.title == "grafana's admin user"]
    password = FixedSecretStore().secret("grafana-admin").reveal()
    assert admin.stdin == f"{password}\n".encode()
    assert "--password-from-stdin" in admin.command
    assert password not in admin.command


def test_grafana_is_read_and_probed(found: Inventory) -> None:
    assert [each["targets"] for each in targets(found) if each["labels"]["job"] == "grafana"] == [["192.168.2.70:3000"]]
    assert "http://192.168.2.70:3000/api/health" in [each["targets"][0] for each in probe_targets(found)]
