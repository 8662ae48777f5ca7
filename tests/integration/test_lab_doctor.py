"""The lab's node passes doctor's checks: clock, bridge, storage, and the privileges of its token."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from homelab.commands.doctor import doctor
from homelab.inventory import load
from homelab.lab import settings
from homelab.lab.node import LabNode
from homelab.paths import bundled_path
from tests.integration.fakenode import certificate, serving


def test_doctor_passes_on_a_new_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "STATE_ROOT", tmp_path / "state")
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    lab = settings.Lab(name="doctor", api_port=0)
    lab.state_dir.mkdir(parents=True)
    template = tmp_path / f"debian-12-standard_12-1_{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}.tar.zst"
    template.touch()
    for name in ("token", "key"):
        (tmp_path / name).write_text(secrets.token_hex(16))
        (tmp_path / name).chmod(0o600)
    node = LabNode(lab, [template], (tmp_path / "token").read_text())
    pair, fingerprint = certificate(tmp_path)
    with serving(node, pair):
        (tmp_path / "overlay.yaml").write_text(f"""
proxmox: {{host: 127.0.0.1, port: {node.port}, node: pve, token_id: "{settings.TOKEN_ID}", token_file: token,
          fingerprint: "{fingerprint}"}}
network: {{subnet: 10.99.2.0/24, gateway: .1, bridge: {lab.bridge}, ssh_allowed_from: [0.0.0.0/0]}}
defaults: {{template: debian-12, storage: local, firewall: true, disk: 1}}
containers: {{postgres-data: {{disk: 1, services: {{postgres: {{version: 15}}}}}}, analytics-platform: {{disk: 1}},
              airflow-orchestration: {{disk: 1}}}}
pipelines: {{weather: {{api_key_file: key}}}}
""")
        (tmp_path / "inventory.yaml").write_text(bundled_path("inventory.yaml").read_text())
        # 404: the replay has three cities, and the requested place is not one of them.
        inventory = load([tmp_path / "inventory.yaml", tmp_path / "overlay.yaml"])
        diagnosis = doctor(inventory, ask=lambda pipeline, key: 404, addresses_in_use=lambda _: {})
    assert [(check.name, check.said) for check in diagnosis.checks if not check.ok] == []
    assert {"role HomelabContainers", "clock of pve", f"bridge {lab.bridge} on pve"} <= {
        check.name for check in diagnosis.checks
    }
