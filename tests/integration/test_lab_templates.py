"""The lab node's template list over its API, without building a template."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.lab import settings
from homelab.lab.node import LabNode
from homelab.model import Container
from homelab.paths import bundled_path
from homelab.proxmox import Client
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.templates import Templates
from tests.integration.fakenode import certificate, serving

FILE = "debian-12-standard_12.7-1_{}.tar.zst"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, Container]]:
    """A client of a lab's node, and a container with Debian 12."""
    monkeypatch.setattr(settings, "STATE_ROOT", tmp_path / "state")
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    place = settings.Lab(name="templates", api_port=0)
    place.state_dir.mkdir(parents=True)
    template = tmp_path / FILE.format("arm64" if os.uname().machine == "aarch64" else "amd64")
    template.touch()
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    node = LabNode(place, [template], token.read_text())
    node.grant(settings.TOKEN_ID, "/storage/local", "Datastore.AllocateTemplate")
    pair, fingerprint = certificate(tmp_path)
    inventory = load([bundled_path("inventory.yaml")])
    with serving(node, pair):
        yield (
            Client(
                replace(
                    inventory.endpoint,
                    host="127.0.0.1",
                    port=node.port,
                    fingerprint=fingerprint,
                    token_file=token,
                    token_id=settings.TOKEN_ID,
                )
            ),
            replace(inventory.containers[0], template="debian-12", template_storage="local"),
        )


def test_template_for_this_machines_architecture(lab: tuple[Client, Container]) -> None:
    client, container = lab
    template = Templates(client).of(container, "pve")
    assert (template.missing, template.volume.startswith("local:vztmpl/debian-12-standard_12.7-1_")) == (False, True)
    assert client.get("nodes/pve/status")["current-kernel"]["machine"] == os.uname().machine


def test_other_releases_are_offered_for_download(lab: tuple[Client, Container]) -> None:
    client, container = lab
    assert [row["os"] for row in client.get("nodes/pve/aplinfo")] == ["debian-12", "debian-13"]
    wanted = Templates(client).of(replace(container, template="debian-13"), "pve")
    assert (wanted.missing, wanted.volume.startswith("local:vztmpl/debian-13-standard_13-1_")) == (True, True)
    with pytest.raises(HomelabError, match=r"storage local has no template for ubuntu-24\.04, and the node cannot"):
        Templates(client).of(replace(container, template="ubuntu-24.04"), "pve")
    with pytest.raises(ProxmoxError) as caught:
        client.post("nodes/pve/aplinfo", storage="local", template="debian-11-standard_11.7-1_amd64.tar.zst")
    assert (caught.value.status, "template: no such template" in caught.value.details) == (400, True)
