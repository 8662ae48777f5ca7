"""The broker and its consumer in containers: outages of the consumer and of PostgreSQL, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.deploy import deploy
from homelab.commands.status import status
from homelab.inventory import load
from homelab.lab import Lab
from tests.integration.lab_fixture import LabFixture, changes, in_a_lab, lab_with
from tests.integration.waiting import until

LAB = Lab("broker", IPv4Network("10.99.2.176/28"), "hl-brok", 18227, 8310)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.176/28, gateway: .177, bridge: x}
containers:
  postgres-data: {vmid: 261, ip: .180, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
  analytics-platform: {vmid: 262, ip: .181, cores: 2, memory: 1536, disk: 4, services: {analytics: {}}}
  broker: {vmid: 263, ip: .182, cores: 1, memory: 512, disk: 4, services: {broker: {disk: 64MB}, consumer: {}}}
pipelines:
  weather: {cities: ["Newark,US", "New York,US"], to: broker}
packages: {security_updates: false}
"""
REMOVED = "containers: {broker: {services: {broker: null, consumer: null}}}\npipelines: {weather: {to: postgres}}"
BACK = "pipelines: {weather: {to: postgres}}"
FETCH = "/usr/local/sbin/homelab-pipeline weather.fetch"
ANALYTICS, BROKER, POSTGRES = "analytics-platform", "broker", "postgres-data"

pytestmark = in_a_lab()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[LabFixture]:
    with lab_with(LAB, folder, INVENTORY) as stack:
        stack.up()
        assert changes(stack)
        yield stack


def rows(stack: LabFixture) -> tuple[int, int]:
    """Return the number of stored observations, and of different ones."""
    query = "select count(*), count(distinct (city, data ->> 'dt')) from raw.weather_observations"
    found = stack.run(f'runuser -u postgres -- psql -qAtc "{query}" project_data', POSTGRES)
    total, different = found.strip().split("|")
    return int(total), int(different)


def fetch(stack: LabFixture) -> dict[str, Any]:
    """Run the ingestion; return its summary."""
    found: dict[str, Any] = json.loads(stack.run(FETCH, ANALYTICS).splitlines()[-1])
    return found


def health(stack: LabFixture, service: str) -> tuple[bool, str]:
    """Return the health of a service in the container of the broker."""
    report = status(stack.session)
    (found,) = (each.health for container in report.containers for each in container.services if each.name == service)
    return found.healthy, found.summary


def test_a_second_deploy_changes_nothing(stack: LabFixture) -> None:
    assert changes(stack) == []


def test_observations_pass_through_the_broker(stack: LabFixture) -> None:
    summary = fetch(stack)
    assert (summary["stored"], summary["waiting"], summary["problem"]) == (2, 0, None)
    assert rows(stack) == (2, 2)
    assert health(stack, "broker") == (True, "0 messages waiting, 0% of 64MB")
    until(lambda: health(stack, "consumer")[1].startswith("2 rows stored"))
    assert stack.memory("homelab-broker", BROKER) + stack.memory("homelab-consumer", BROKER) < 120 * 1024


def test_the_broker_holds_observations_while_the_consumer_is_away(stack: LabFixture) -> None:
    before, _ = rows(stack)
    stack.run("systemctl stop homelab-consumer", BROKER)
    summary = fetch(stack)
    assert summary["waiting"] == 2
    assert rows(stack)[0] == before
    healthy, text = health(stack, "broker")
    assert not healthy
    assert text.endswith("no consumer reads them")
    stack.run("systemctl start homelab-consumer", BROKER)
    until(lambda: rows(stack) == (before + 2, before + 2))
    until(lambda: health(stack, "broker")[0])


def test_the_ingestion_survives_without_postgresql(stack: LabFixture) -> None:
    before, _ = rows(stack)
    stack.run("systemctl stop postgresql@15-main", POSTGRES)
    assert fetch(stack)["waiting"] == 2
    assert health(stack, "consumer")[1].startswith("waits since")
    stack.run("systemctl start postgresql@15-main", POSTGRES)
    until(lambda: rows(stack) == (before + 2, before + 2))
    until(lambda: health(stack, "consumer")[0])


def other(stack: LabFixture, folder: Path, overlay: str) -> LabFixture:
    """Return the lab with an overlay of the inventory."""
    (folder / "other.yaml").write_text(overlay)
    inventory = load([folder / "0.yaml", LAB.overlay, folder / "other.yaml"])
    return replace(stack, inventory=replace(inventory, state_dir=folder / "state"))


def test_the_spool_takes_over_without_the_broker_and_the_way_back_drains_it(stack: LabFixture, folder: Path) -> None:
    before, _ = rows(stack)
    stack.run("systemctl stop homelab-consumer", BROKER)
    assert fetch(stack)["waiting"] == 2
    stack.run("systemctl kill -s KILL homelab-broker; systemctl stop homelab-broker", BROKER)
    assert '"spooled": 2' in stack.run(f"{FETCH} || true", ANALYTICS)
    stack.run("systemctl start homelab-broker", BROKER)
    # Two observations, and the start and the end of the run.
    until(lambda: "4 messages waiting" in health(stack, "broker")[1])
    # With waiting messages, the broker stays.
    removed = other(stack, folder, REMOVED)
    refused = {report.container: str(report.failure) for report in deploy(removed.session) if report.failure}
    assert list(refused) == [BROKER]
    assert "messages wait in it" in refused[BROKER]
    # The option back to PostgreSQL drains the spool directly, and the consumer drains the broker.
    back = other(stack, folder, BACK)
    assert changes(back)
    assert fetch(back)["recovered"] == 2
    until(lambda: rows(stack) == (before + 6, before + 6))
    # The ingestion's identity was removed with the option; now the services can be.
    assert stack.run("grep -c 'user: \"ingestion\"' /etc/homelab/broker.conf || true", BROKER).strip() == "0"
    assert any("homelab-broker.service" in each for each in changes(removed))
    assert stack.run("ss -Hltn | grep -c :4222 || true", BROKER).strip() == "0"
