"""`homelab logs`: the units that it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.commands.logs import logs_argv
from homelab.inventory import load
from homelab.known_hosts import KnownHosts, Pin
from homelab.paths import bundled_path
from tests.support import make_session

AIRFLOW = ["airflow-api-server.service", "airflow-dag-processor.service", "airflow-scheduler.service"]


@pytest.mark.parametrize(
    ("selected", "units", "checked"),
    [
        (None, AIRFLOW, False),
        ("airflow", AIRFLOW, False),
        ("airflow-scheduler", ["airflow-scheduler"], True),
        ("cron.service", ["cron.service"], True),
    ],
)
def test_service_means_its_units(
    tmp_path: Path, selected: str | None, units: list[str], checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(bundled_path("inventory.yaml").read_text())
    inventory = load([path])
    known_hosts = KnownHosts.of(inventory.state_dir)
    known_hosts.pin("airflow-orchestration", Pin("SHA256:x", "ssh-ed25519 AAAA"))
    monkeypatch.setattr("tests.support.FixedSecretStore.key_path", lambda *_: Path("key"), raising=False)
    words = logs_argv(make_session(inventory, known_hosts), "airflow-orchestration", selected, True, 20)
    command = words[-1]
    assert [word.removeprefix("--unit=") for word in command.split() if word.startswith("--unit=")] == units
    assert ("systemctl cat" in command) is checked
    assert command.endswith("--follow")
