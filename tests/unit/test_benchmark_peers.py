"""The benchmarks' peers can carry out every step of the shipped inventory."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.playbook import Tasks, tasks_of
from benchmarks.peers.pyinfra import operations_of
from homelab.inventory import load
from homelab.model import ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.steps import DpkgConfigured
from tests.support import FixedSecretStore


@pytest.fixture(params=["postgres-data", "analytics-platform", "airflow-orchestration"])
def steps(request: pytest.FixtureRequest, tmp_path: Path) -> list[Step]:
    (tmp_path / "key").write_text("openweather-key")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "overlay.yaml").write_text("pipelines: {weather: {api_key_file: key}}")
    inventory = load([bundled_path("inventory.yaml"), tmp_path / "overlay.yaml"])
    container = next(each for each in inventory.containers if each.name == request.param)
    keys = {each.name: "ssh-ed25519 AAAA" for each in inventory.containers}
    store = FixedSecretStore()
    return list(steps_of(ServiceContext(inventory=inventory, container=container, secret_store=store, host_keys=keys)))


def test_ansible_has_tasks_for_every_step_but_one_for_an_interrupted_dpkg(steps: list[Step], tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "files", steps)
    assert [type(step) for step in steps if not tasks_of(step, tasks)] == [DpkgConfigured]


def test_pyinfra_has_operations_for_every_step_but_one_for_an_interrupted_dpkg(
    steps: list[Step], tmp_path: Path
) -> None:
    without = [type(step) for number, step in enumerate(steps) if not operations_of(step, tmp_path / str(number))]
    assert without == [DpkgConfigured]
