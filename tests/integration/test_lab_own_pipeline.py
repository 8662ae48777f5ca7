"""The tutorial about own pipelines in a lab, from a wheel in an empty folder: deployed, run, broken and removed.

A service and a pipeline of another package are deployed next to it.
"""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from homelab.lab import Lab
from tests.integration.lab_fixture import ECHO_STACK, fresh, in_a_lab, run_homelab
from tests.integration.tutorial import blocks, commands, install_homelab

LAB = Lab("pipelines", IPv4Network("10.99.2.224/28"), "hl-pipe", 18107, 8190)
INVENTORY = """
lab: x
proxmox: {{host: x, token_id: homelab@pve!x}}
network: {{subnet: 10.99.2.224/28, gateway: .225, bridge: x}}
containers:
  postgres-data: {{vmid: 191, ip: {address}, cores: 1, memory: 1024, disk: 4, services: {{postgres: {{version: 15}}}}}}
  analytics-platform: {{vmid: 192, ip: .229, cores: 2, memory: 2048, disk: 4, services: {{analytics: {{}}{echo}}}}}
  airflow-orchestration: {{vmid: 193, ip: .230, cores: 2, memory: 3072, disk: 6, services: {{airflow: {{}}{more}}}}}
pipelines:
  weather: {{cities: ["Newark,US", "New York,US"]}}
  {own}
"""
OLD, NEW = "10.99.2.228", "10.99.2.231"  # addresses of PostgreSQL
PRICES = "prices: {path: pipelines/prices}"
WRONG = "select no_such_column as item from {{ source('prices', 'readings') }}"
pytestmark = in_a_lab(900)


@dataclass(frozen=True)
class Folder:
    """A user's folder with an inventory, and homelab's command line in it."""

    path: Path
    program: Path

    def write(self, own: str, echo: str = "", address: str = OLD, more: str = "") -> None:
        """Write the inventory: own pipelines, services on analytics' and Airflow's container, PostgreSQL's address."""
        text = INVENTORY.format(own=own, echo=echo, address=address, more=more)
        (self.path / "inventory.yaml").write_text(text)

    def homelab(self, *words: str, expect: int = 0) -> str:
        """Run a command and check its exit code; return both outputs."""
        state = {"XDG_STATE_HOME": str(self.path / "state")}
        done = run_homelab(
            self.path, [LAB.overlay], words, program=[self.program], environment=state, expect=[expect], timeout=600
        )
        return done.stdout if "--json" in words else done.stdout + done.stderr

    def follow(self, command: str) -> str:
        """Run a command of the tutorial; return both outputs."""
        program, *words = shlex.split(command)
        assert program == "homelab"
        return self.homelab(*words, *(["--yes"] if words[0] == "prune" else []))

    def query(self, sql: str, pipeline: str = "prices") -> list[dict[str, Any]]:
        """Return rows of the pipeline's published marts."""
        rows: list[dict[str, Any]] = json.loads(self.homelab("query", "--pipeline", pipeline, sql, "--json"))
        return rows

    def on(self, container: str, command: str) -> str:
        """Run a command in a container as root."""
        return self.homelab("ssh", container, "--", command).strip()

    def in_database(self, sql: str) -> list[str]:
        """Return the lines that psql prints for one statement in project_data."""
        psql = shlex.join(["runuser", "-u", "postgres", "--", "psql", "-qAt", "project_data", "-c", sql])
        return self.on("postgres-data", f"cd /; {psql}").splitlines()

    @property
    def model(self) -> Path:
        """The model of the mart."""
        return self.path / "pipelines" / "prices" / "dbt" / "models" / "prices_daily.sql"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    program = install_homelab(tmp_path_factory.mktemp("environment") / "homelab", ECHO_STACK)
    folder = Folder(tmp_path_factory.mktemp("home"), program)
    with fresh(LAB):
        folder.write("")
        folder.homelab("up", "--yes")
        for command in commands("Write the example"):
            folder.follow(command)
        folder.write(PRICES)
        for command in commands("Deploy it"):
            folder.follow(command)
        yield folder


def test_pipeline_is_run_queried_and_pulled_next_to_the_weather(folder: Folder) -> None:
    assert re.search("no run yet|last run", folder.homelab("pipeline", "status", "prices"))
    folder.homelab("deploy", "--detailed-exitcode")
    run, query, status = (folder.follow(command) for command in commands("Run it"))
    assert "success" in run
    assert "electricity" in query
    assert "last run" in status
    rows = folder.query("select item, average from prices_daily where day = '2026-01-01' order by item")
    assert rows == [{"item": "electricity", "average": 26.0}, {"item": "gas", "average": 9.25}]
    (version,) = [block for block in blocks("Change it") if block.language == "sql"]
    with (folder.path / "pipelines" / "prices" / "schema.sql").open("a") as schema:
        schema.write(f"\n{version.text}")
    *_, pulled = (folder.follow(command) for command in commands("Change it"))
    assert "prices.duckdb" in pulled
    assert folder.in_database("select count(*) from prices.readings where currency is null") == ["5"]
    assert "1 models built, 3 tests passed" in folder.homelab("pipeline", "rebuild", "prices")
    assert json.loads(folder.homelab("pipeline", "run", "--json"))["state"] == "success"
    report = json.loads(folder.homelab("status", "--json"))
    healthy = [(each["name"], each["health"]["healthy"]) for each in report["pipelines"]]
    assert healthy == [("weather", True), ("prices", True)]
    assert "pipeline prices" in folder.homelab("status")
    assert "prices" in folder.homelab("pipeline", "list")


def test_tutorial_joins_the_prices_with_the_weather(folder: Folder) -> None:
    manifest, model = blocks("Join it with the weather")[:2]
    day = folder.query("select min(observation_date)::text as day from weather_daily", "weather")[0]["day"]
    with (folder.path / "pipelines" / "prices" / "scripts" / "prices.csv").open("a") as prices:
        prices.write(f"electricity,{day}T00:00:00+00:00,17.5\n")
    with (folder.path / manifest.path).open("a") as file:
        file.write(manifest.text)
    (folder.path / model.path).write_text(model.text)
    for command in commands("Join it with the weather"):
        folder.follow(command)
    rows = folder.query(
        "select day::text as day, average, temperature_mean_c is not null as joined from prices_weather"
    )
    assert rows
    assert all(row == {"day": day, "average": 17.5, "joined": True} for row in rows)


def test_commands_of_a_pipeline_run_as_its_own_user_and_cannot_read_the_weathers_secrets(folder: Folder) -> None:
    sandbox = "/usr/local/sbin/homelab-as-pipeline-prices"
    assert folder.on("analytics-platform", f"{sandbox} /usr/bin/id -un") == "pipeline-prices"
    secrets = "/opt/analytics-platform/pipelines/weather/secrets.env"
    assert folder.on("analytics-platform", f"test -s {secrets} && echo present") == "present"
    read = f"{sandbox} /bin/cat {secrets} 2>/dev/null || echo refused"
    assert folder.on("analytics-platform", read) == "refused"
    gate = "SSH_ORIGINAL_COMMAND=prices.fetchx /opt/analytics-platform/bin/gate 2>&1 || true"
    assert "refused: this key may run" in folder.on("analytics-platform", gate)


def test_pipeline_that_joins_the_weather_reads_its_published_file_and_no_other(folder: Folder) -> None:
    def outcome(command: str) -> str:
        words = f"/usr/local/sbin/homelab-as-pipeline-prices {command} >/dev/null 2>&1 && echo allowed || echo refused"
        return folder.on("analytics-platform", words)

    folder.homelab("deploy", "--detailed-exitcode")
    data = "/opt/analytics-platform/pipelines/weather/data"
    assert outcome(f"/usr/bin/head -c 1 {data}/published.duckdb") == "allowed"
    assert outcome(f"/usr/bin/head -c 1 {data}/warehouse.duckdb") == "refused"
    assert outcome(f"/bin/ls {data}") == "refused"
    assert outcome(f"/usr/bin/touch {data}/own") == "refused"
    reads, model = blocks("Join it with the weather")[:2]
    manifest = folder.path / reads.path
    manifest.write_text(manifest.read_text().replace(reads.text, ""))
    (folder.path / model.path).unlink()
    folder.homelab("deploy")
    assert outcome(f"/usr/bin/head -c 1 {data}/published.duckdb") == "refused"


def test_rows_of_a_pipeline_are_excluded_included_and_backfilled(folder: Folder) -> None:
    key = ("--key", "item=gas", "--from", "2026-01-01", "--to", "2026-01-02", "--reason", "wrong", "--yes", "--json")
    before = len(folder.query("from prices_daily"))
    assert json.loads(folder.homelab("pipeline", "exclude", "prices", *key))["rows"] == 1
    folder.homelab("pipeline", "run", "prices")
    assert len(folder.query("from prices_daily")) == before - 1
    folder.homelab("pipeline", "include", "1", "--pipeline", "prices")
    (folder.path / "more.csv").write_text("item,measured_at,value\noil,2026-01-01T00:00Z,1\n")
    assert "1 rows stored" in folder.homelab("pipeline", "backfill", "prices", "more.csv")
    folder.homelab("pipeline", "run", "prices")
    assert len(folder.query("from prices_daily")) == before + 1
    assert "wrong" in folder.homelab("pipeline", "exclusions", "prices")
    (folder.path / "more.csv").write_text("item,measured_at,value\noil,someday,1\n")
    assert "measured_at" in folder.homelab("pipeline", "backfill", "prices", "more.csv", expect=2)
    rows = "cd /; runuser -u postgres -- psql -qAt project_data -c \"delete from prices.readings where item = 'oil'\""
    folder.on("postgres-data", rows)
    folder.homelab("pipeline", "run", "prices")
    assert "prices_daily" in folder.homelab("docs", "prices", "--no-open") + (folder.path / "prices.html").read_text()


def test_wrong_column_fails_the_deploy_of_this_pipeline_only(folder: Folder) -> None:
    right = folder.model.read_text()
    folder.model.write_text(WRONG)
    try:
        output = " ".join(folder.homelab("deploy", expect=1).split())
        assert "no_such_column" in output
        assert "Everything else on analytics-platform is deployed" in output
        assert len(folder.query("from prices_daily")) == 5
        folder.homelab("pipeline", "run", "prices")  # with the earlier model
    finally:
        folder.model.write_text(right)
    folder.homelab("deploy")


def test_row_that_cannot_be_read_fails_this_pipeline_only(folder: Folder) -> None:
    source = folder.path / "pipelines" / "prices" / "scripts" / "prices.csv"
    right = source.read_text()
    source.write_text("item,measured_at,value\nx,yesterday,1\n")
    folder.homelab("deploy")
    assert "prices.csv, line 2" in folder.homelab("pipeline", "run", "prices", expect=1)
    assert "(fetch)" in folder.homelab("pipeline", "status", "prices")
    report = json.loads(folder.homelab("status", "--json", expect=1))
    assert [each["health"]["healthy"] for each in report["pipelines"]] == [True, False]
    assert json.loads(folder.homelab("pipeline", "run", "--json"))["state"] == "success"
    assert len(folder.query("from prices_daily")) == 5
    source.write_text(right)
    folder.homelab("deploy")
    folder.homelab("pipeline", "run", "prices")


def test_service_and_pipeline_of_another_package_run_and_are_removed_again(folder: Folder) -> None:
    analytics = "analytics-platform"
    folder.write(f"{PRICES}\n  echoes:", ", echo: {text: from another package}")
    assert "package echo-stack" in folder.homelab("services")
    folder.homelab("deploy")
    folder.homelab("deploy", "--detailed-exitcode")
    outcome = json.loads(folder.homelab("pipeline", "run", "echoes", "--json"))
    assert outcome["tasks"] == {"fetch": "success", "build": "success"}
    assert folder.query("select answer from echoes_answers", "echoes") == [{"answer": "from another package"}]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://10.99.2.229:8901/", timeout=10) as answer:
        assert answer.read() == b"from another package\n"

    folder.write(PRICES)
    planned = folder.homelab("deploy", "--dry-run")
    for resource in ("unit echo.service", "tree /opt/analytics-platform/pipelines/echoes/scripts"):
        assert resource in planned
    assert "no longer in the inventory, their data stay: echoes, echoes_dbt" in planned
    folder.homelab("deploy")
    folder.homelab("deploy", "--detailed-exitcode")
    left = "ls /etc/systemd/system/echo.service /srv/echo /usr/local/sbin/homelab-as-echo 2>/dev/null || true"
    assert folder.on(analytics, left) == ""
    assert folder.on(analytics, "systemctl is-active echo.service || true") == "inactive"
    assert "echoes" not in folder.on(analytics, "cat /opt/analytics-platform/bin/gate /etc/sudoers.d/*")
    assert "echoes" not in folder.on("airflow-orchestration", "ls /opt/airflow/bundles").split()
    assert folder.in_database("select rolcanlogin from pg_roles where rolname ~ '^echoes'") == ["f", "f"]

    assert folder.in_database("select distinct answer from echoes.answers") == ["from another package"]
    assert folder.on(analytics, "cat /var/lib/echo/format") == "1"
    for name in ("echo", "echoes"):
        folder.homelab("prune", name, "--yes")
    assert folder.in_database("select 1 from pg_namespace where nspname = 'echoes'") == []
    assert folder.on(analytics, "ls /var/lib/echo 2>/dev/null || true") == ""


def test_postgresql_moves_to_another_address_and_the_ingestion_of_all_pipelines_next_to_airflow(folder: Folder) -> None:
    counts = "select (select count(*) from raw.weather_observations), (select count(*) from prices.readings)"
    rows = folder.in_database(counts)
    folder.write(PRICES, address=NEW, more=", ingestion: {}")
    with (folder.path / "pipelines" / "prices" / "schema.sql").open("a") as schema:
        schema.write("\n-- version 3\nalter table readings add note text;\n")
    assert "postgres-data" in folder.homelab("up", "--yes")
    folder.homelab("deploy")
    folder.homelab("deploy", "--detailed-exitcode")
    assert folder.in_database(counts) == rows
    assert NEW in folder.on("postgres-data", "head -n 1 /etc/ssl/homelab/postgres.pem")
    for container, folders in (
        ("postgres-data", "/etc/postgresql /etc/ssl/homelab"),
        ("analytics-platform", "/opt/analytics-platform --include=*.env"),
        ("airflow-orchestration", "/etc/homelab /etc/airflow"),
    ):
        assert folder.on(container, f"grep -rlF {OLD} {folders} || true") == ""
    for name in ("weather", "prices"):
        assert json.loads(folder.homelab("pipeline", "run", name, "--json"))["state"] == "success"
    commands = "ls /opt/analytics-platform/pipelines/*/bin"
    assert folder.on("analytics-platform", commands).split()[1::2] == ["build", "build"]
    assert "build" not in folder.on("airflow-orchestration", commands)
    assert folder.homelab("pipeline", "exclusions", "prices", "--json")


def test_removed_pipeline_leaves_only_its_data(folder: Folder) -> None:
    folder.write("", address=NEW)
    dry_run, deploy, prune = commands("Remove it")
    planned = folder.follow(dry_run)
    assert "tree /opt/analytics-platform/pipelines/prices/scripts" in planned
    assert "no longer in the inventory, their data stay: prices, prices_dbt" in planned
    folder.follow(deploy)
    folder.homelab("deploy", "--detailed-exitcode")
    assert folder.on("analytics-platform", "ls /opt/analytics-platform/pipelines/prices") == "data"
    assert "prices" not in folder.on("analytics-platform", "cat /opt/analytics-platform/bin/gate /etc/sudoers.d/*")
    assert folder.on("airflow-orchestration", "ls /opt/airflow/bundles") == "weather"
    assert folder.in_database("select count(*) from prices.readings") == ["6"]
    assert json.loads(folder.homelab("pipeline", "run", "--json"))["state"] == "success"
    planned = folder.follow(prune)
    assert "postgres-data: schema project_data.prices" in planned
    assert folder.on("analytics-platform", "ls /opt/analytics-platform/pipelines") == "weather"
    assert "no pipeline of this name has left data" in " ".join(folder.homelab("prune", "prices", expect=2).split())
