"""Airflow's executor Celery in containers: two workers, a lost and a removed worker, and the change back to local."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import requests

from homelab.inventory import load
from homelab.lab import Lab
from homelab.runtime.session import Session
from tests.integration.lab_fixture import PROGRAM, QUIET, fresh, in_a_lab, processes_showing, run_homelab
from tests.integration.waiting import until

LAB = Lab("celery", IPv4Network("10.99.2.48/28"), "hl-cele", 18206, 8289)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.48/28, gateway: .49, bridge: x}
containers:
  postgres-data: {vmid: 241, ip: .51, cores: 1, memory: 1024, disk: 4, services: {postgres: {version: 15}REDIS}}
  analytics-platform: {vmid: 242, ip: .52, cores: 2, memory: 2048, disk: 4, services: {analytics: {}}}
  airflow-orchestration:
    {vmid: 243, ip: .53, cores: 2, memory: 3072, disk: 6, services: {airflow: {dags: dags, executor: EXECUTOR}}}
  worker-1: {vmid: 244, ip: .54, cores: 1, memory: 2048, disk: 6, services: ONE}
  worker-2: {vmid: 245, ip: .55, cores: 1, memory: 2048, disk: 6, services: TWO}
pipelines:
  weather: {cities: ["Newark,US"]}
packages: {security_updates: false}
"""
AIRFLOW, WORKERS = "10.99.2.53", {"10.99.2.54": "worker-1", "10.99.2.55": "worker-2"}
WORKER = "{airflow_worker: {drain: 3m}}"
# `first` is the time of the first attempt.
DAG = """
import time
from datetime import datetime, timedelta, timezone
from airflow.sdk import DAG, Variable, task
SECONDS = int(Variable.get("seconds"))  # while it is imported: a worker has no metadata
DAGS = (  # retries and the seconds before each
    ("short", 4, SECONDS, 0, 1), ("waiting", 1, 1, 20, 10), ("long", 1, 600, 1, 1), ("leaving", 1, 30, 0, 1),
    ("back", 5, 15, 1, 1),
)
for name, tasks, first, retries, pause in DAGS:
    with DAG(name, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), schedule=None, catchup=False):
        @task(retries=retries, retry_delay=timedelta(seconds=pause))
        def work(number, first, ti=None):
            print("works", number, flush=True)
            time.sleep(first if ti.try_number == 1 else 1)
        work.partial(first=first).expand(number=list(range(tasks)))
"""
IMPATIENT = """[Service]
Environment=AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=20
Environment=AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL=5
"""
PSQL = "set -a; . /etc/homelab/airflow-database.env; psql -qAtc "

pytestmark = in_a_lab(900)


@dataclass
class Folder:
    """A user's folder with an inventory and DAGs, and homelab's command line in it."""

    path: Path
    executor: str = "celery"
    redis: str = ", redis: {memory: 16MB}"
    one: str = WORKER
    two: str = WORKER

    @property
    def session(self) -> Session:
        """A session on the inventory."""
        return Session.open(load([self.path / "inventory.yaml", LAB.overlay]), QUIET)

    def write(self) -> None:
        """Write the inventory."""
        text = INVENTORY.replace("EXECUTOR", f"{self.executor}, variables: {{seconds: 12}}")
        text = text.replace("REDIS", self.redis).replace("ONE", self.one).replace("TWO", self.two)
        (self.path / "inventory.yaml").write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        self.write()
        program = [*PROGRAM, "--overlay", str(LAB.overlay)]
        pipe = subprocess.PIPE
        return subprocess.Popen([*program, *words], cwd=self.path, env=os.environ, stdout=pipe, stderr=pipe, text=True)

    def homelab(self, *words: str) -> str:
        """Run a command that has to succeed; return its output."""
        self.write()
        return run_homelab(self.path, [LAB.overlay], words).stdout

    def deployed_again(self) -> list[str]:
        """Deploy again; return the changes."""
        return [each for report in json.loads(self.homelab("deploy", "--json")) for each in report["changes"]]

    def on(self, container: str, command: str) -> str:
        """Run shell text in a container as root."""
        return self.homelab("ssh", container, "--", command).strip()

    def sql(self, text: str, dag: str = "") -> list[list[str]]:
        """Return the rows of a query on Airflow's metadata; DAG stands for a DAG's id."""
        rows = self.on("airflow-orchestration", f"{PSQL}{shlex.quote(text.replace('DAG', dag))}").splitlines()
        return [row.split("|") for row in rows]

    def trigger(self, dag: str) -> None:
        """Start a run of a DAG as soon as Airflow has it."""
        until(lambda: self.sql("select 1 from dag where dag_id = 'DAG' and not is_stale", dag))
        self.on("airflow-orchestration", f"homelab-airflow dags trigger {dag}")

    def tasks(self, dag: str) -> list[list[str]]:
        """Return state, address and number of attempts of the tasks of a DAG."""
        return self.sql("select state, hostname, try_number from task_instance where dag_id = 'DAG'", dag)

    def running(self, dag: str, count: int = 1) -> list[str]:
        """Wait until tasks of a DAG run; return their addresses."""

        def found() -> list[str] | None:
            addresses = [address for state, address, _ in self.tasks(dag) if state == "running" and address]
            return addresses if len(addresses) >= count else None

        addresses: list[str] = until(found)
        return addresses

    def ended(self, dag: str) -> str:
        """Wait for the end of the only run of a DAG; return its state."""
        states = "select state from dag_run where dag_id = 'DAG' and state in ('success', 'failed')"
        return str(until(lambda: self.sql(states, dag))[0][0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("home"))
    (folder.path / "dags").mkdir()
    (folder.path / "dags" / "work.py").write_text(DAG)
    with fresh(LAB):
        folder.homelab("up", "--yes")
        folder.homelab("deploy")
        yield folder


def test_tasks_run_on_both_workers(folder: Folder) -> None:
    assert folder.deployed_again() == []
    folder.trigger("short")
    assert folder.ended("short") == "success"
    assert {address for _, address, _ in folder.tasks("short")} == WORKERS.keys()
    assert json.loads(folder.homelab("pipeline", "run", "--json"))["state"] == "success"
    addresses = folder.sql("select distinct hostname from task_instance where dag_id like 'weather%' and hostname > ''")
    assert {address for (address,) in addresses} <= WORKERS.keys()
    report = json.loads(folder.homelab("status", "--json"))
    services = [(each, service) for each in report["containers"] for service in each["services"]]
    assert [service["health"]["summary"] for _, service in services if not service["health"]["healthy"]] == []
    assert "work.py" not in folder.on("worker-1", "cat /etc/homelab/*.env")


def test_api_and_logs_are_read_over_verified_connections(folder: Folder) -> None:
    authority = folder.session.secrets.known_authority()
    assert authority
    (folder.path / "ca.crt").write_text(authority.certificate)
    client = requests.Session()
    client.trust_env, client.verify = False, str(folder.path / "ca.crt")
    login = {"username": "admin", "password": folder.session.secrets.secret("airflow-admin").reveal()}
    token = client.post(f"https://{AIRFLOW}:8080/auth/token", json=login, timeout=20).json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    ((run,),) = folder.sql("select run_id from dag_run where dag_id = 'short'")
    path = f"dags/short/dagRuns/{run}/taskInstances/work/logs/1?map_index=2"
    assert "works 2" in client.get(f"https://{AIRFLOW}:8080/api/v2/{path}", timeout=20).text
    with pytest.raises(requests.ConnectionError):
        client.get(f"http://{AIRFLOW}:8080/", timeout=5)


def test_queue_and_logs_are_closed_to_all_others(folder: Folder) -> None:
    def is_open(origin: str, address: str, port: int) -> bool:
        knock = f"timeout 3 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo open || echo closed"
        return folder.on(origin, knock) == "open"

    redis = "10.99.2.51"
    for address in WORKERS:
        assert is_open("airflow-orchestration", address, 8793)
        assert not is_open("analytics-platform", address, 8793)
    assert not is_open("worker-1", "10.99.2.55", 8793)
    assert is_open("worker-1", redis, 6379)
    assert not is_open("analytics-platform", redis, 6379)
    facts = folder.on("postgres-data", "homelab-redis info; homelab-redis config get dir")
    assert "maxmemory_policy:noeviction" in facts
    assert "NOPERM" in facts
    without = f"redis-cli --tls --cacert /etc/ssl/homelab/ca.crt -h {redis} ping"
    assert "NOAUTH" in folder.on("postgres-data", without)
    for unit, name in (("homelab-redis", "postgres-data"), ("airflow-worker", "worker-1")):
        folder.on(name, f"systemd-analyze security --no-pager --threshold=30 {unit}.service")
    password = folder.session.secrets.secret("redis-password").reveal()
    for name in ("postgres-data", "worker-1", "airflow-orchestration"):
        assert folder.on(name, processes_showing(password)) == ""


def test_full_redis_is_reported_and_loses_no_task(folder: Folder) -> None:
    folder.on("postgres-data", "homelab-redis setrange filler 20000000 x")
    report = json.loads(run_homelab(folder.path, [LAB.overlay], ["status", "--json"], expect=[1]).stdout)
    services = [service for each in report["containers"] for service in each["services"]]
    (summary,) = (service["health"]["summary"] for service in services if service["name"] == "redis")
    assert summary.startswith("full: ")
    assert summary.endswith("tasks cannot be queued. Raise `memory` under `redis:`")
    folder.trigger("waiting")
    refused = "journalctl --unit airflow-scheduler --since -5min --grep 'used memory > .maxmemory' --quiet || true"
    until(lambda: folder.on("airflow-orchestration", refused))
    folder.on("postgres-data", "homelab-redis del filler")
    assert folder.ended("waiting") == "success"
    ((_, _, attempts),) = folder.tasks("waiting")
    assert int(attempts) > 1


def test_task_of_a_lost_worker_is_retried_on_another(folder: Folder) -> None:
    drop_in = "/etc/systemd/system/airflow-scheduler.service.d"
    install = f"mkdir -p {drop_in} && printf %s {shlex.quote(IMPATIENT)} >{drop_in}/impatient.conf"
    folder.on("airflow-orchestration", f"{install} && systemctl daemon-reload && systemctl restart airflow-scheduler")
    folder.trigger("long")
    (lost,) = folder.running("long")
    stop = "systemctl kill --signal=KILL --kill-whom=all airflow-worker; systemctl stop airflow-worker"
    folder.on(WORKERS[lost], stop)
    assert folder.ended("long") == "success"
    ((state, address, attempt),) = folder.tasks("long")
    assert (state, attempt) == ("success", "2")
    assert address in WORKERS.keys() - {lost}
    folder.on("airflow-orchestration", f"rm -r {drop_in} && systemctl daemon-reload")
    folder.homelab("deploy")
    assert folder.on(WORKERS[lost], "systemctl is-active airflow-worker") == "active"


def test_removed_worker_completes_its_tasks_first(folder: Folder) -> None:
    folder.trigger("leaving")
    (leaving,) = folder.running("leaving")
    if WORKERS[leaving] == "worker-1":
        folder.one = "{}"
    else:
        folder.two = "{}"
    folder.homelab("deploy")
    assert folder.tasks("leaving")[0][0] == "success"
    assert folder.ended("leaving") == "success"
    assert folder.tasks("leaving") == [["success", leaving, "1"]]
    assert folder.on(WORKERS[leaving], "systemctl is-active airflow-worker || true") == "inactive"
    gate = folder.on("analytics-platform", "cat /home/analytics/.ssh/authorized_keys")
    assert leaving not in gate
    assert folder.deployed_again() == []


def test_change_back_to_the_local_executor_loses_no_run(folder: Folder) -> None:
    folder.trigger("back")
    folder.running("back", 2)
    folder.executor, folder.one, folder.two = "local", "{}", "{}"
    folder.homelab("deploy")
    assert folder.ended("back") == "success"
    found = folder.tasks("back")
    assert {state for state, _, _ in found} == {"success"}
    on_worker = [attempt for _, address, attempt in found if address in WORKERS]
    assert len(on_worker) >= 2
    assert {*on_worker} == {"1"}, "none of them was stopped"
    assert len({address for _, address, _ in found}) == 2, "on the worker, then on Airflow's container"
    folder.redis = ""
    folder.homelab("deploy")
    assert folder.deployed_again() == []
    assert folder.on("postgres-data", "ss -Htln sport = :6379") == ""
    folder.executor, folder.redis, folder.one = "celery", ", redis: {}", WORKER
    folder.homelab("deploy")
    assert json.loads(folder.homelab("pipeline", "run", "--json"))["state"] == "success"
