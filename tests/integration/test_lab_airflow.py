"""A user's DAGs, packages, connections, variables and pools in a real Airflow of each series, in containers."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import urlencode

import pytest

from homelab.lab import Lab
from homelab.paths import bundled_path
from homelab.services.airflow_environment import HOME
from homelab.services.airflow_failures import failed_tasks
from homelab.services.airflow_platform import SANDBOX
from tests.integration.lab_fixture import fresh, in_a_lab, run_homelab
from tests.scripts import DAG_ID, TASKS
from tests.unit.test_ecowitt import FORM, PASSKEY

LAB = Lab("airflow", IPv4Network("10.99.2.208/28"), "hl-airf", 18146, 8229)
ADDRESSES = """
defaults: {journal_size: 16MiB}
containers:
  postgres-data: {vmid: 230, ip: 10.99.2.211}
  analytics-platform: {vmid: 231, ip: 10.99.2.212}
  airflow-orchestration: {vmid: 232, ip: 10.99.2.213}
"""
OWN = "containers: {{airflow-orchestration: {{services: {{airflow: {options}}}}}}}"
REMOVED = "removed"
OPTIONS = """dags: dags, packages: [humanize], pools: {few: 2}, variables: {region: eu, limits: {rows: 3}},
  connections: {warehouse: {conn_type: no such type, host: 10.0.0.5, password: {secret: warehouse}}}"""
DAG = """
from datetime import datetime, timezone
try:
    from airflow.sdk import BaseHook, DAG, Variable, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
    from airflow.hooks.base import BaseHook
    from airflow.models import Variable
from own_module import words
REGION = Variable.get("region")  # while it is imported
with DAG("prices", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None, catchup=False):
    @task(pool="few")
    def check():
        connection = BaseHook.get_connection("warehouse")
        assert (connection.host, connection.password) == ("10.0.0.5", "it's \\"$x"), connection.host
        assert Variable.get("limits", deserialize_json=True) == {"rows": 3}
        assert (REGION, words(1000)) == ("eu", "1,000")
    check()
"""
BROKEN = """
from datetime import datetime, timezone
try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2
    from airflow import DAG
    from airflow.decorators import task
with DAG("broken", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None, catchup=False):
    @task(retries=0)
    def look_up():
        raise ValueError("no price of tin")
    look_up()
"""
STATION = """services: {station: {city: Garden, latitude: 40.7, longitude: -74, passkey: {secret: station}}}"""
ON_DATA = """pipelines: {weather: {schedule: on_data, every: 10s, build_every: 1m}}
"""
MAKE_OLD = """update dag_run set start_date = now() - interval '100 days' where dag_id = 'DAG';
update task_instance set start_date = now() - interval '100 days' where dag_id = 'DAG';
update log set dttm = now() - interval '100 days'"""
OLD_ROWS = """select (select count(*) from dag_run where dag_id = 'DAG'),
(select count(*) from task_instance where dag_id = 'DAG'),
(select count(*) from log where dttm < now() - interval '99 days'),
(select count(*) from pg_tables where starts_with(tablename, '_airflow_deleted'))"""
PSQL = "set -a; . /etc/homelab/airflow-database.env; psql -qAtc "

pytestmark = in_a_lab()


@dataclass
class Folder:
    """A user's folder with an inventory and DAGs, and homelab's command line in it."""

    path: Path
    version: str = "2.11"
    options: str = OPTIONS

    def homelab(self, *words: str, expect: int = 0, stdin: str = "") -> str:
        """Run a command and check its exit code; return its output, and its errors if it failed."""
        options = "null" if self.options == REMOVED else f'{{version: "{self.version}", {self.options}}}'
        (self.path / "own.yaml").write_text(OWN.format(options=options))
        overlays = [LAB.overlay, Path("addresses.yaml"), Path("own.yaml")]
        done = run_homelab(self.path, overlays, words, expect=[expect], stdin=stdin)
        return done.stdout + (done.stderr if expect else "")

    def deployed_again(self) -> list[str]:
        """Deploy again; return the changes, of which there should be none."""
        return [each for report in json.loads(self.homelab("deploy", "--json")) for each in report["changes"]]

    def on_airflow(self, command: str) -> str:
        """Run shell text in Airflow's container."""
        return self.homelab("ssh", "airflow-orchestration", "--", command).strip()

    def dags(self, **files: str) -> None:
        """Write the folder of DAGs, with exactly these modules."""
        shutil.rmtree(self.path / "dags", ignore_errors=True)
        (self.path / "dags").mkdir()
        for name, text in files.items():
            (self.path / "dags" / f"{name}.py").write_text(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("home"))
    shutil.copy(bundled_path("inventory.yaml"), folder.path)
    (folder.path / "addresses.yaml").write_text(ADDRESSES)
    folder.dags(prices=DAG, broken=BROKEN, own_module="import humanize\nwords = humanize.intcomma\n")
    with fresh(LAB):
        folder.version = "2.11"
        folder.homelab("up", "--yes")
        yield folder


def sql(text: str, dag: str = "") -> str:
    """Return shell text that runs a query on the metadata; DAG stands for a DAG's id."""
    return f"{PSQL}{shlex.quote(text.replace('DAG', dag))}"


def until(condition: str) -> str:
    """Return shell text that waits until a condition holds, at most two minutes."""
    return f"for i in $(seq 120); do if {condition}; then exit; fi; sleep 1; done; exit 1"


def run(folder: Folder, dag: str) -> str:
    """Trigger a DAG as soon as Airflow has it; return the state of the run at its end."""
    of_3, of_2 = "select 1 from dag where dag_id = 'DAG' and not is_stale", "select 1 from dag where dag_id = 'DAG'"
    has_dag = sql(of_2 if folder.version == "2.11" else of_3, dag)
    folder.on_airflow(until(f"{has_dag} | grep -q ."))
    folder.on_airflow(f"homelab-airflow dags trigger {dag}")
    state = sql("select state from dag_run where dag_id = 'DAG' order by id desc limit 1", dag)
    folder.on_airflow(until(f"{state} | grep -q -e success -e failed"))
    return folder.on_airflow(state)


def test_missing_secret_and_lock_are_named(folder: Folder) -> None:
    assert "airflow lock`" in folder.homelab("deploy", "--limit", "airflow-orchestration", expect=2)
    folder.homelab("airflow", "lock")
    shown = folder.homelab("deploy", "--limit", "airflow-orchestration", expect=2)
    assert "own.yaml:2: {secret: warehouse}" in shown
    assert "secret set warehouse" in shown
    folder.homelab("secret", "set", "warehouse", stdin="it's \"$x\n")


@pytest.mark.parametrize("version", ["2.11", "3.3"])
def test_dag_of_the_user_runs_with_its_package_connection_variables_and_pool(folder: Folder, version: str) -> None:
    folder.version = version
    folder.homelab("airflow", "lock")
    folder.homelab("deploy")
    assert folder.deployed_again() == []
    assert run(folder, "prices") == "success"
    weather = folder.on_airflow(sql("select fileloc from dag where dag_id = 'DAG'", DAG_ID))
    assert weather == f"/opt/airflow/bundles/weather/{DAG_ID}.py"
    assert run(folder, DAG_ID) == "success"
    units, tasks = units_in_logs(folder, "weather"), {f"{DAG_ID}.{task}" for task in TASKS.values()}
    assert units == {*tasks, "weather.dbt"}
    assert {*tasks, "prices.check", "airflow-scheduler"} <= units_in_logs(folder, "airflow")
    assert run(folder, "broken") == "failed"
    labels = 'dag="broken",task="look_up",message="ValueError: no price of tin"'
    metrics = folder.on_airflow(failed_tasks(SANDBOX, f"{HOME}/logs"))
    assert metrics == f"homelab_airflow_dag_failed_task{{{labels}}} 1", "the words of the alert"
    remove_old_runs(folder, "prices")


def units_in_logs(folder: Folder, name: str) -> set[str]:
    """Return the units in the lines of the logs, after checking that the lines are sorted and from this run."""
    lines = [json.loads(line) for line in folder.homelab("logs", name, "--since", "30m", "--json").splitlines()]
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert times[-1] > datetime.now(UTC) - timedelta(minutes=5)
    return {line["unit"] for line in lines}


def remove_old_runs(folder: Folder, dag: str) -> None:
    """Make all runs of a DAG old and clean up as the timer does; check that they are removed, and nothing else."""
    others = sql("select (select count(*) from dag), (select count(*) from dag_run where dag_id <> 'DAG')", dag)
    before = folder.on_airflow(others)
    folder.on_airflow(sql(MAKE_OLD, dag))
    logs = f"find /var/lib/airflow/logs/dag_id={dag} -type f"
    folder.on_airflow(f"{logs} | grep -q . && {logs} -exec touch -d '100 days ago' {{}} +")
    folder.on_airflow("systemctl start airflow-cleanup.service")
    assert folder.on_airflow(others) == before
    assert folder.on_airflow(sql(OLD_ROWS, dag)) == "0|0|0|0"
    assert folder.on_airflow(f"{logs} | wc -l") == "0"


def test_top_has_the_state_of_all_containers(folder: Folder) -> None:
    sample = json.loads(folder.homelab("top", "--once", "--json"))
    for each in sample["containers"]:
        assert each["problem"] == ""
        assert set(each["units"].values()) <= {"active"}
        assert 0 < each["memory"] <= each["memory_total"]
        assert 0 < each["disk"] < each["disk_total"]
    (weather,) = sample["pipelines"]
    assert (weather["healthy"], weather["run"]) == (True, "success")
    assert weather["age"] < 600
    assert 0 < sample["database"]["connections"] < sample["database"]["limit"]
    logged = {line["container"] for line in sample["logs"]}  # PostgreSQL may have nothing to log
    assert "analytics-platform" in logged
    assert logged <= {each["name"] for each in sample["containers"]}
    shown = folder.homelab("top")
    assert "sparklines: samples since" in shown
    assert "✓ weather" in shown


def test_journal_stays_within_its_limit(folder: Folder) -> None:
    fill = "head -c 45000000 /dev/urandom | base64 -w 40000 | systemd-cat"
    size = "du -skc /var/log/journal /run/log/journal 2>/dev/null | tail -n 1 | cut -f1"
    assert int(folder.on_airflow(f"{fill}; journalctl --sync; {size}")) <= 16 * 1024 + 16, "with its folders"
    newest = "echo newest | systemd-cat -t newest; journalctl --sync; journalctl -t newest --output=cat"
    assert folder.on_airflow(newest) == "newest"


def test_import_error_fails_only_the_deploy_of_the_users_dags(folder: Folder) -> None:
    folder.dags(prices=DAG, own_module="def words(\n")
    folder.options = f"{OPTIONS}, parallelism: 3"
    shown = folder.homelab("deploy", expect=1)
    assert "own_module.py, line 1: SyntaxError: '(' was never closed" in shown
    assert "Of the DAGs in dags/, not started: nothing." in shown
    assert "PARALLELISM=3" in folder.on_airflow("cat /etc/homelab/airflow.env")
    assert "humanize" in folder.on_airflow("cat /opt/airflow/bundles/user/own_module.py")  # the earlier version
    assert [run(folder, DAG_ID), run(folder, "prices")] == ["success", "success"]
    folder.dags(other=DAG.replace('"prices"', f'"{DAG_ID}"'), own_module="words = str")
    assert f"other.py: the DAG id {DAG_ID} is homelab's own" in folder.homelab("deploy", expect=1)
    assert folder.on_airflow("ls /opt/airflow/bundles").split() == ["user", "weather"]


def test_change_in_the_web_ui_is_shown_and_reverted(folder: Folder) -> None:
    folder.dags(prices=DAG, own_module="import humanize\nwords = humanize.intcomma\n")
    folder.homelab("deploy")
    folder.on_airflow("homelab-airflow variables set region us; homelab-airflow variables set mine 1")
    folder.on_airflow("homelab-airflow pools delete few")
    shown = folder.homelab("deploy", "--dry-run")
    assert "connections, variables and pools: change variable region, create pool few" in shown
    assert "-  val: (another value)" in shown, "it may be a secret that was typed into the web UI"
    assert "+  val: eu" in shown
    folder.homelab("deploy")
    assert folder.deployed_again() == []
    assert run(folder, "prices") == "success"


def test_objects_that_leave_the_inventory_are_removed_from_airflow(folder: Folder) -> None:
    folder.options = ""
    folder.homelab("deploy")
    assert folder.deployed_again() == []
    assert folder.on_airflow(sql("select conn_id from connection")) == ""
    assert folder.on_airflow(sql("select key from variable")) == "mine"
    assert folder.on_airflow(sql("select pool from slot_pool")) == "default_pool"
    assert folder.on_airflow("ls /opt/airflow/bundles") == "weather"
    assert folder.on_airflow("/opt/airflow/venv/bin/python -c 'import humanize' 2>&1 || true").endswith("'humanize'")
    stale = sql("select is_stale from dag where dag_id = 'DAG'", "prices")
    folder.on_airflow(until(f"{stale} | grep -q t"))
    assert run(folder, DAG_ID) == "success"


def test_new_rows_of_the_stream_start_builds_and_a_station_has_a_city(folder: Folder) -> None:
    folder.version, folder.options = "3.3", ""
    (folder.path / "addresses.yaml").write_text(
        ADDRESSES.replace("10.99.2.212}", f"10.99.2.212, {STATION}}}") + ON_DATA
    )
    folder.homelab("secret", "set", "station", stdin=f"{PASSKEY}\n")
    folder.homelab("deploy")
    assert folder.deployed_again() == []
    form = {**FORM, "dateutc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")}
    for passkey, status in (("wrong", 403), (PASSKEY, 200)):
        body = urlencode({**form, "PASSKEY": passkey}).encode()
        connection = HTTPConnection("10.99.2.212", 8090, timeout=20)
        connection.request("POST", "/data/report/", body)
        assert connection.getresponse().status == status
        connection.close()
    started = sql(
        "select count(*) from dag_run where dag_id = 'DAG' and run_type = 'asset_triggered' and state = 'success'",
        DAG_ID,
    )
    folder.on_airflow(until(f"{started} | grep -qv '^0$'"))
    asked = sql(
        "select distinct state from task_instance where dag_id = 'DAG' and state is not null", "weather_new_rows"
    )
    assert set(folder.on_airflow(asked).split()) <= {"success", "skipped", "running", "queued", "scheduled"}
    rows = json.loads(folder.homelab("query", "--now", "select city, source from weather_now order by city", "--json"))
    assert {"city": "Garden", "source": "station"} in rows
    assert [row["source"] for row in rows].count("openweather") == len(rows) - 1 == 3
    assert "Garden" in folder.homelab("query", "select city from cities")
    sample = json.loads(folder.homelab("top", "--once", "--json"))
    assert [(each["name"], each["healthy"]) for each in sample["pipelines"]] == [("weather", True)]
    (units,) = (each["units"] for each in sample["containers"] if each["name"] == "analytics-platform")
    assert units == {"homelab-station.service": "active", "homelab-weather-stream.service": "active"}
    (folder.path / "addresses.yaml").write_text(ADDRESSES)
    folder.homelab("deploy")
    left = "systemctl list-unit-files homelab-weather-stream.service homelab-station.service | grep -c service || true"
    assert folder.homelab("ssh", "analytics-platform", "--", left).strip() == "0"


def test_data_of_a_removed_airflow_stay_until_they_are_pruned(folder: Folder) -> None:
    folder.options = REMOVED
    assert "it is still installed on airflow-orchestration" in folder.homelab("prune", "airflow", "--yes", expect=1)
    folder.homelab("deploy")
    databases = "env --chdir=/ runuser -u postgres -- psql -Atc 'select datname from pg_database' | sort"
    assert "airflow_metadata" in folder.homelab("ssh", "postgres-data", "--", databases)
    assert folder.on_airflow("ls /var/lib/airflow") != ""
    found = json.loads(folder.homelab("prune", "airflow", "--yes", "--json"))["data"]
    assert [(each["kind"], each["name"]) for each in found] == [
        ("database", "airflow_metadata"),
        ("role", "airflow_admin"),
        ("folder", "/var/lib/airflow"),
    ]
    assert "airflow_metadata" not in folder.homelab("ssh", "postgres-data", "--", databases)
    assert folder.on_airflow("ls /var/lib | grep -c airflow || true") == "0"
    assert folder.homelab("prune", "airflow", "--yes") == "Nothing to do: airflow has no data.\n"
    assert folder.deployed_again() == []
