"""One fault of the inventory is one problem: what depends on a faulty service or container is not reported as well."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path
from tests.support import observability
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT


def container(number: int, memory: int, **services: object) -> dict[str, object]:
    return {"vmid": number, "ip": f".{number}", "cores": 1, "memory": memory, "services": services}


def repository(name: str) -> dict[str, object]:
    uri = f"https://packages.{name}.example"
    return {"uri": uri, "suite": "stable", "components": ["main"], "key": "key.asc", "fingerprint": FINGERPRINT}


# Every service that other parts of the inventory need.
FULL: dict[str, Any] = {
    "containers": {
        "postgres-data": {"services": {"postgres": {}}},
        "analytics-platform": {"services": {"analytics": {}}},
        "airflow-orchestration": {"services": {"airflow": {"version": "3.3", "executor": "celery"}}},
        "worker": container(171, 2048, airflow_worker={}),
        "queue": container(172, 256, redis={}),
        "fetch": container(173, 512, ingestion={}),
        "object-storage": container(175, 1024, s3={}),
        "olap": container(177, 4096, clickhouse={}),
        "broker": container(179, 512, broker={}),
        "consumer": container(180, 256, consumer={}),
        "web": container(181, 4096, gateway={}, superset={}),
        **observability(prometheus={}, alertmanager={}, grafana={}),
    },
    "packages": {"repositories": {name: repository(name) for name in ("clickhouse", "grafana")}},
    "pipelines": {
        "weather": {"target": "clickhouse", "to": "broker", "schedule": "on_data"},
        "prices": {"path": "pipelines/prices", "target": "lake"},
    },
    "alerts": {"webhook": "http://192.168.2.5:8000/alerts"},
}
SERVICES = [(name, service) for name, each in FULL["containers"].items() for service in each["services"]]


def full(folder: Path, document: dict[str, Any]) -> Inventory:
    new_pipeline(folder, "prices")
    (folder / "key.asc").write_text(BOOKWORM)
    (folder / "full.yaml").write_text(json.dumps(document))
    return load([bundled_path("inventory.yaml"), folder / "full.yaml"])


def problems(folder: Path, document: dict[str, Any]) -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(InputError) as caught:
        full(folder, document)
    return caught.value.details.splitlines()


def test_inventory_without_a_fault_has_no_problem(tmp_path: Path) -> None:
    assert {name for each in full(tmp_path, FULL).containers for name in each.services} >= {
        service for _, service in SERVICES
    }


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_wrong_option_is_one_problem(tmp_path: Path, name: str, service: str) -> None:
    document = deepcopy(FULL)
    document["containers"][name]["services"][service]["no_option"] = 1
    (found,) = problems(tmp_path, document)
    assert f"containers.{name}.services.{service}.no_option: unknown key" in found


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_misspelt_service_is_one_problem(tmp_path: Path, name: str, service: str) -> None:
    document = deepcopy(FULL)
    services = document["containers"][name]["services"]
    services[f"{service}x"] = services.pop(service)
    (found,) = problems(tmp_path, document)
    assert f"containers.{name}.services.{service}x: unknown service; did you mean `{service}`?" in found


@pytest.mark.parametrize("name", FULL["containers"])
def test_wrong_address_is_one_problem(tmp_path: Path, name: str) -> None:
    document = deepcopy(FULL)
    document["containers"][name]["ip"] = ".256"
    (found,) = problems(tmp_path, document)
    assert f"containers.{name}.ip: must be an IPv4 address" in found


def test_wrong_subnet_is_one_problem(tmp_path: Path) -> None:
    document = deepcopy(FULL)
    document["network"] = {"subnet": "192.168.2.1/24"}
    (found,) = problems(tmp_path, document)
    assert "network.subnet: must be a network such as" in found
