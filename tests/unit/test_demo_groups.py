"""The groups of `homelab demo --with`: their services, in the lab's small network, over any inventory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from typer.testing import CliRunner

from homelab.cli import app
from homelab.errors import InputError
from homelab.inventory import load
from homelab.lab import GROUPS, Lab, check_groups, credentials, messages, write_groups
from homelab.lab.settings import MESSAGES
from homelab.model import Inventory
from homelab.model.web_uis import start_page_url
from homelab.paths import bundled_path


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with credentials and an overlay, and no processes."""
    monkeypatch.setattr("homelab.lab.settings.STATE_ROOT", tmp_path)
    lab = Lab()
    lab.state_dir.mkdir()
    credentials.ensure(lab)
    credentials.write_overlay(lab, [])
    return lab


def inventory(lab: Lab, names: Sequence[str], own: str = "{}") -> Inventory:
    """Return the shipped inventory in the lab with the groups, over the user's own changes."""
    path = lab.state_dir / "own.yaml"
    path.write_text(own)
    paths = [bundled_path("inventory.yaml"), path, lab.overlay]
    write_groups(lab, load(paths), names)
    return load([*paths, *lab.overlays[1:]])


def services(found: Inventory, name: str) -> set[str]:
    return {key for each in found.containers if each.name == name for key in each.services}


def test_all_groups_fit_into_the_lab(lab: Lab) -> None:
    found = inventory(lab, list(GROUPS))
    assert services(found, "observability") >= {
        "gateway",
        "prometheus",
        "blackbox_exporter",
        "alertmanager",
        "alert_bridge",
        "node_exporter",
    }
    assert services(found, "postgres-data") == {"postgres", "node_exporter", "postgres_exporter"}
    assert start_page_url(found.containers) == "https://10.99.2.70"


def test_group_brings_its_services_only(lab: Lab) -> None:
    found = inventory(lab, ["gateway"])
    assert services(found, "observability") == {"gateway"}
    assert services(found, "postgres-data") == {"postgres"}
    assert found.alerts is None


def test_messages_of_the_demo_stay_on_this_machine(lab: Lab) -> None:
    found = inventory(lab, ["alerts"], "alerts: {urls: ['ntfy://ntfy.sh/mine'], slack: {webhook: {secret: x}}}")
    assert found.alerts
    assert found.alerts.receivers == ("webhook",)
    assert found.alerts.webhook == f"http://10.99.2.1:8089{MESSAGES}"


def test_services_of_the_inventory_keep_their_container(lab: Lab) -> None:
    own = "containers: {door: {vmid: 180, ip: .80, cores: 1, memory: 256, services: {gateway: {}}}}"
    found = inventory(lab, ["gateway", "monitoring"], own)
    assert found.container_with("gateway").name == "door"
    assert services(found, "observability") == {"prometheus", "blackbox_exporter", "node_exporter"}


def test_unknown_group_is_refused_before_anything_is_started() -> None:
    with pytest.raises(InputError) as caught:
        check_groups(["gateway", "dashbords"])
    assert caught.value.brief == "Cannot add `dashbords` to the demo: no such group"
    assert caught.value.details == f"Groups: {', '.join(GROUPS)}."
    result = CliRunner().invoke(app, ["demo", "--with", "gateway,dashbords"])
    assert isinstance(result.exception, InputError)


def test_help_lists_the_groups() -> None:
    shown = CliRunner().invoke(app, ["demo", "--help"]).output
    assert ", ".join(GROUPS) in " ".join(shown.split())


def test_received_messages_are_lines_of_a_file(tmp_path: Path) -> None:
    async def story() -> list[int]:
        server = web.Application()
        server.router.add_post(MESSAGES, messages.receive(tmp_path / "messages"))
        async with TestClient(TestServer(server)) as client:
            first = await client.post(MESSAGES, json={"status": "firing"})
            second = await client.post(MESSAGES, data="not JSON")
        return [first.status, second.status]

    assert asyncio.run(story()) == [200, 400]
    assert (tmp_path / "messages").read_text() == '{"status": "firing"}\n'
