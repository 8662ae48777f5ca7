"""The weather in a lake, in containers: builds, a query of an earlier time, and the way to a file and back.

Old months of raw rows move to the same object storage, and back.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from homelab.lab import Lab
from homelab.lab.observations import PLACES, answer, load
from tests.integration.lab_fixture import fresh, in_a_lab, run_homelab

LAB = Lab("lake", IPv4Network("10.99.2.48/28"), "hl-lake", 18236, 8319)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.48/28, gateway: .49, bridge: x}
containers:
  object-storage: {vmid: 221, ip: .52, cores: 1, memory: 1024, disk: 8, services: {s3: {reserve: 100MB}}}
  platform: {vmid: 222, ip: .53, cores: 2, memory: 3072, disk: 8, services: {postgres: {version: 15}, analytics: {}}}
pipelines:
  weather: {cities: ["Newark,US"], target: lake}
packages: {security_updates: false}
"""
DAYS = "select sum(observations)::bigint as observations from weather_daily"
RAW_ROWS = "select count(*) as rows from raw_copy.weather_observations where data ->> '$.main.temp' is not null"

OLD = """
do $$ begin execute format('create table raw.old partition of raw.weather_observations for values from (%L) to (%L)',
    FIRST, FIRST + interval '1 month'); end $$;
insert into raw.weather_observations (city, units, data, ingested_at)
select city, units, jsonb_set(data, '{dt}', to_jsonb((data ->> 'dt')::bigint - 86400 * 300)), FIRST + interval '1 day'
from raw.weather_observations limit 50
""".replace("FIRST", "(date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' - interval '4 months')")

pytestmark = in_a_lab()


@dataclass(frozen=True)
class Folder:
    """A user's folder with an inventory, and homelab's command line in it."""

    path: Path

    def homelab(self, *words: str, expect: int = 0) -> str:
        """Run a command, check its exit code, and return both outputs; with --json, only standard output."""
        done = run_homelab(self.path, [LAB.overlay], words, expect=[expect])
        return done.stdout if "--json" in words else done.stdout + done.stderr

    def query(self, *words: str) -> Any:
        """Return the rows of a query."""
        return json.loads(self.homelab("query", *words, "--json"))

    def store(self, hours: range) -> None:
        """Store observations of Newark from a file."""
        place = next(each for each in PLACES if each.name == "Newark")
        found = [answer(place, each, "imperial") for each in load()[place.station][hours.start : hours.stop]]
        (self.path / "history.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in found))
        self.homelab("pipeline", "backfill", "history.jsonl", "--city", "Newark,US", "--units", "imperial")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("home"))
    (folder.path / "inventory.yaml").write_text(INVENTORY)
    with fresh(LAB):
        folder.homelab("up", "--yes")
        folder.homelab("deploy")
        yield folder


def test_weather_is_built_in_the_lake_and_moved(folder: Folder) -> None:
    folder.store(range(100))
    folder.homelab("pipeline", "rebuild")
    first = datetime.now(UTC)
    assert folder.query(DAYS) == [{"observations": 100}]
    data = "/opt/analytics-platform/pipelines/weather/data"
    assert folder.homelab("ssh", "platform", "--", f"ls {data}/warehouse.duckdb 2>/dev/null | wc -l").strip() == "0"
    folder.store(range(100, 200))
    folder.homelab("pipeline", "rebuild")
    assert folder.query(DAYS) == [{"observations": 200}]
    at = ("--at", f"{first:%Y-%m-%dT%H:%M:%S}")
    assert folder.query(*at, DAYS) == [{"observations": 100}]
    assert folder.query(*at, RAW_ROWS) == [{"rows": 100}]
    assert "the lake has no build of it" in folder.homelab("query", "--at", "2020-01-01", DAYS, expect=2)
    assert "Permission Error" in folder.homelab("query", *at, "from read_text('/etc/passwd')", expect=2)
    now = ("--at", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
    assert folder.query(*now, RAW_ROWS) == [{"rows": 200}]
    for target in ("file", "lake"):
        assert "compared row by row" in folder.homelab("pipeline", "move", "weather", "--to", target, "--yes")
    folder.homelab("pipeline", "rebuild")
    assert folder.query(DAYS) == [{"observations": 200}]
    assert json.loads(folder.homelab("deploy", "--json"))[0]["changes"] == []


def test_old_months_move_to_the_object_storage_and_back(folder: Folder) -> None:
    def sql(text: str) -> str:
        words = ["runuser", "-u", "postgres", "--", "psql", "-qAt", "project_data", "-c", text]
        return folder.homelab("ssh", "platform", "--", f"cd /; {shlex.join(words)}").strip()

    def change(text: str) -> None:
        (folder.path / "inventory.yaml").write_text(INVENTORY.replace("target: lake", text))
        folder.homelab("deploy")

    sql(OLD)
    change("target: lake, archive_months: 2")
    folder.homelab("pipeline", "rebuild")
    where = "select (select count(*) from raw.weather_observations), (select sum(rows) from raw.archived_months)"
    assert sql(where) == "200|50"
    assert sql("select to_regclass('raw.old') is null") == "t"
    folder.homelab("pipeline", "rebuild")
    assert folder.query(DAYS) == [{"observations": 250}]
    assert "they would be archived again" in folder.homelab("pipeline", "unarchive", expect=2)
    change("target: lake")
    assert len(json.loads(folder.homelab("pipeline", "unarchive", "--json"))) == 1
    assert sql(where) == "250|"
    folder.homelab("pipeline", "rebuild")
    assert folder.query(DAYS) == [{"observations": 250}]
