"""Full disks in the lab, on the storage that enforces sizes: they are named, and no observation is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import pairwise

import pytest

from homelab.commands import snapshot
from homelab.commands.deploy import deploy
from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.lab import Lab
from homelab.runtime.container_states import container_states
from homelab.runtime.lab_report import report_lab
from homelab.runtime.pipeline_runs import run_pipeline
from homelab.steps.postgres_objects import PSQL
from homelab.steps.queries import Query
from tests.integration.lab_fixture import LabFixture, in_a_lab, lab_with
from tests.integration.waiting import until
from tests.scripts import IN_CONTAINER

LAB = Lab("disks", IPv4Network("10.99.2.112/28"), "hl-disk", 18166, 8249)
DATABASE, ANALYTICS, AIRFLOW = "postgres-data", "analytics-platform", "airflow-orchestration"
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.112/28, gateway: .113, bridge: x}
defaults: {storage: local}
containers:
  postgres-data: {vmid: 174, ip: .116, cores: 2, memory: 1024, disk: 2, services: {postgres: {version: 15}}}
  analytics-platform: {vmid: 175, ip: .117, cores: 2, memory: 2048, disk: 3, services: {analytics: {}}}
  airflow-orchestration: {vmid: 176, ip: .118, cores: 2, memory: 3072, disk: 4, services: {airflow: {}}}
pipelines: {weather: {cities: ["Newark,US"]}}
"""
SIZED = "defaults: {storage: local-ext4}\n"
INGEST = "/usr/local/sbin/homelab-pipeline weather.fetch"

pytestmark = in_a_lab(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("disks"), INVENTORY, SIZED) as stack:
        stack.up()
        assert not [report.failure for report in deploy(stack.session) if report.failure]
        run_pipeline(stack.session)
        yield stack


@contextmanager
def full(stack: LabFixture, container: str, folder: str) -> Iterator[None]:
    """Fill a container's disk for the duration of the block."""
    fill = (
        f"for size in 1M 4k 512; do dd if=/dev/zero of={folder}/filler.$size bs=$size 2>/dev/null || true; done; sync"
    )
    try:
        stack.run(fill, container)
        yield
    finally:
        stack.run(f"rm -f {folder}/filler.*", container)


def named_by_status(stack: LabFixture) -> dict[str, list[str]]:
    report = report_lab(stack.session)
    assert not report.healthy
    return {each.name: list(each.full_disks) for each in report.containers if each.full_disks}


def hours(stack: LabFixture) -> list[int]:
    """Return the times of the stored observations, oldest first."""
    query = Query(PSQL, "project_data", "select data ->> 'dt' from raw.weather_observations order by 1")
    return [int(line) for line in stack.run(query, DATABASE).split()]


def redeploy(stack: LabFixture) -> list[str]:
    reports = deploy(stack.session)
    assert [report.failure for report in reports if report.failure] == []
    return [str(change) for report in reports for change in report.changes]


def test_disk_has_the_size_of_the_inventory_and_refuses_snapshots(stack: LabFixture) -> None:
    for name, size in ((DATABASE, 2), (ANALYTICS, 3), (AIRFLOW, 4)):
        kibibytes = int(stack.run("df -P / | awk 'NR == 2 {print $2}'", name))
        assert 0.9 * size < kibibytes / 2**20 < size
    with pytest.raises(HomelabError, match=r"[Ss]napshot"):
        snapshot.create(stack.session, "a1")


def test_full_disk_of_analytics_is_named_and_the_next_run_catches_up(stack: LabFixture) -> None:
    before = hours(stack)
    with full(stack, ANALYTICS, f"{IN_CONTAINER}/data"):
        assert named_by_status(stack) == {ANALYTICS: ["/ 100%"]}
        with pytest.raises(HomelabError, match=f"the disk of {ANALYTICS} is full") as error:
            run_pipeline(stack.session)
        assert "give it a larger `disk` in the inventory" in error.value.details
        with stack.connect(ANALYTICS) as host:
            assert not host.run(INGEST).ok  # not even its sandbox starts
    redeploy(stack)
    run_pipeline(stack.session)
    after = hours(stack)
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert report_lab(stack.session).healthy


def test_full_disk_of_postgresql_is_named_and_nothing_is_lost(stack: LabFixture) -> None:
    before = hours(stack)
    with full(stack, DATABASE, "/var/lib/postgresql"):
        summaries = []
        for _ in range(3):
            with stack.connect(ANALYTICS) as host:
                result = host.run(INGEST)
            summaries.append(json.loads(result.text.splitlines()[-1]))
        assert [each["failed"] for each in summaries] == [0, 0, 0]
        assert named_by_status(stack) == {DATABASE: ["/ 100%"]}
        with pytest.raises(HomelabError, match=f"the disk of {DATABASE} is full"):
            run_pipeline(stack.session)
    redeploy(stack)
    assert redeploy(stack) == []
    run_pipeline(stack.session)
    new = hours(stack)[len(before) :]
    assert len(new) >= 4
    assert {later - earlier for earlier, later in pairwise([before[-1], *new])} == {3600}, "no hour is lost"
    assert report_lab(stack.session).healthy


def test_larger_disk_of_the_inventory_reaches_the_container(stack: LabFixture) -> None:
    text = re.sub("disk: 2", "disk: 3", INVENTORY)
    path = stack.inventory.path.with_name("larger.yaml")
    path.write_text(text)
    inventory = load([path, LAB.overlay, stack.inventory.path.with_name("1.yaml")])
    larger = LabFixture(replace(inventory, state_dir=stack.inventory.state_dir))
    stack.run("systemctl poweroff", DATABASE)
    until(lambda: container_states(stack.inventory)[0][0].status == "stopped")
    larger.up()
    assert int(larger.run("df -P / | awk 'NR == 2 {print $2}'", DATABASE)) > 2.5 * 2**20
