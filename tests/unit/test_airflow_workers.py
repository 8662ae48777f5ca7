"""Airflow's executor Celery: its queue, its workers, and the consequences of the inventory for both."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.model.firewall import desired_firewall
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.runtime.log_sources import select_logs
from homelab.services.airflow import Airflow
from homelab.services.airflow_worker import AirflowWorker
from homelab.services.postgres import hba
from homelab.services.redis import Redis
from homelab.steps import Command, File, Packages, Tree, Venv, WaitFor
from tests.support import FixedSecretStore, LocalHost

CELERY = """
defaults: {template: TEMPLATE}
containers:
  postgres-data: {services: {postgres: {version: VERSION}}}
  airflow-orchestration: {services: {airflow: {executor: celery}}}
  queue: {vmid: 197, ip: .97, cores: 1, memory: 512, services: {redis: {memory: 64MiB}}}
  worker-1: {vmid: 198, ip: .98, cores: 1, memory: 1024, services: {airflow_worker: {}}}
  worker-2:
    {vmid: 199, ip: .99, cores: 1, memory: 1024, services: {airflow_worker: {queues: [large, default], slots: 3}}}
"""
VERSIONS = {"ubuntu-24.04": "16", "debian-12": "15", "debian-13": "17"}


def inventory(folder: Path, text: str = CELERY, template: str = "ubuntu-24.04") -> Inventory:
    """Return the shipped inventory with an overlay, and the key of the weather."""
    (folder / "key").write_text("openweather-key")
    (folder / "key").chmod(0o600)
    (folder / "key.yaml").write_text(f"pipelines: {{weather: {{api_key_file: {folder}/key}}}}")
    (folder / "own.yaml").write_text(text.replace("TEMPLATE", template).replace("VERSION", VERSIONS[template]))
    return load([bundled_path("inventory.yaml"), folder / "key.yaml", folder / "own.yaml"])


def steps(wanted: Inventory, name: str) -> Sequence[Step]:
    (container,) = (each for each in wanted.containers if each.name == name)
    keys = {each.name: f"ssh-ed25519 Key-of-{each.name}" for each in wanted.containers}
    return steps_of(
        ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    )


def files(found: Sequence[Step]) -> dict[str, str]:
    return {step.path: step.content.decode() for step in found if isinstance(step, File)}


def environment(text: str) -> dict[str, str]:
    lines = [line.partition("=")[::2] for line in text.splitlines() if not line.startswith("#")]
    return {name: value.strip("'") for name, value in lines}


@pytest.mark.parametrize(
    ("template", "program"), [("ubuntu-24.04", "redis"), ("debian-12", "redis"), ("debian-13", "valkey")]
)
def test_queue_is_the_program_of_the_distribution(tmp_path: Path, template: str, program: str) -> None:
    found = steps(inventory(tmp_path, template=template), "queue")
    names = {name for step in found if isinstance(step, Packages) for name in step.names}
    assert {f"{program}-server", f"{program}-tools"} <= names
    text = files(found)
    assert f"ExecStart=/usr/bin/{program}-server " in text["/etc/systemd/system/homelab-redis.service"]
    assert f"/usr/bin/{program}-cli --tls " in text["/usr/local/sbin/homelab-redis"]
    titles = [step.title for step in found]
    package = next(step.title for step in found if isinstance(step, Packages) and f"{program}-server" in step.names)
    assert titles.index(f"{program}-server.service is masked") < titles.index(package)


def test_queue_has_only_tls_a_password_and_a_limit(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path), "queue")
    config = files(found)["/etc/homelab/redis.conf"].splitlines()
    digest = hashlib.sha256(b"secret-of-redis-password").hexdigest()
    expected = {"port 0", "bind 192.168.2.97", "tls-auth-clients no", "maxmemory-policy noeviction", "appendonly yes"}
    assert {*expected, f"maxmemory {64 * 2**20}"} <= {*config}
    assert f"user default on sanitize-payload #{digest} ~* &* +@all -@admin" in config
    assert "secret-of-" not in "\n".join(config)
    (modes,) = [(step.group, step.mode) for step in found if isinstance(step, File) and "redis.conf" in step.path]
    assert modes == ("homelab-redis", 0o640)


def test_queue_of_an_unknown_distribution_is_refused(tmp_path: Path) -> None:
    text = CELERY.replace("memory: 512,", "memory: 512, template: 'local:vztmpl/alpine-3.24-default.tar.xz',")
    with pytest.raises(InputError) as caught:
        steps(inventory(tmp_path, text), "queue")
    assert caught.value.brief == "Cannot deploy redis on queue: its distribution is unknown"


@pytest.mark.parametrize(
    ("answer", "healthy", "summary"),
    [
        ("used_memory:1048576\r\nmaxmemory:67108864\r\nconnected_clients:3", True, "1 of 64 MiB used, 3 clients"),
        (
            "used_memory:67000000\nmaxmemory:67108864\nconnected_clients:3",
            False,
            "full: 64 of 64 MiB used, 3 clients; ",
        ),
        ("used_memory:1\nmaxmemory:2048\nconnected_clients:1\naof_last_write_status:err", False, "cannot write to its"),
        ("NOAUTH Authentication required.", False, "does not answer"),
    ],
)
def test_full_queue_is_unhealthy(answer: str, healthy: bool, summary: str) -> None:
    health = Redis().assess([Result("", 0, answer.encode())])
    assert (health.healthy, health.summary[: len(summary)]) == (healthy, summary)


def test_without_celery_airflow_is_unchanged(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path, "{}"), "airflow-orchestration")
    text = files(found)
    settings = environment(text["/etc/homelab/airflow.env"])
    assert settings["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert settings["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert not [name for name in settings if "CELERY" in name or "SSL_CA" in name]
    assert "ssl" not in text["/usr/local/sbin/homelab-airflow-ready"]
    assert "--ssl" not in text["/etc/systemd/system/airflow-api-server.service"]
    (venv,) = (step for step in found if isinstance(step, Venv))
    assert venv.lock == bundled_path("pipelines/shared/requirements/airflow-3.3.txt").read_bytes()


def test_worker_and_airflow_have_the_same_packages_dags_and_api(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    found = {name: steps(wanted, name) for name in ("airflow-orchestration", "worker-1", "worker-2")}
    for kind in (Venv, Tree):
        locks = {
            name: [(s.path, s.lock if isinstance(s, Venv) else s.files) for s in theirs if isinstance(s, Venv | Tree)]
            for name, theirs in found.items()
        }
        assert locks["worker-1"] == locks["worker-2"] == locks["airflow-orchestration"], kind
    assert b"apache-airflow-providers-celery==3.26.0" in locks["worker-1"][0][1]
    settings = {name: environment(files(theirs)["/etc/homelab/airflow.env"]) for name, theirs in found.items()}
    for each in settings.values():
        assert each["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
        assert each["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "https://192.168.2.69:8080/execution/"
        assert each["AIRFLOW__API__SSL_CA_FILE"] == "/etc/ssl/homelab/ca.crt"
        assert each["AIRFLOW__API__CLIENT_USE_PUBLIC_CERTS"] == "False"
        assert "192.168.2.68" in each["AIRFLOW_CONN_ANALYTICS"]
    assert settings["worker-2"]["HOMELAB_ADDRESS"] == "192.168.2.99"
    unit = files(found["worker-2"])["/etc/systemd/system/airflow-worker.service"]
    assert " celery worker --concurrency 3 --queues large,default --celery-hostname celery@worker-2\n" in unit
    assert "TimeoutStopSec=300\n" in unit
    api = files(found["airflow-orchestration"])["/etc/systemd/system/airflow-api-server.service"]
    assert " api-server --ssl-cert /etc/ssl/homelab/airflow.pem --ssl-key /etc/ssl/homelab/airflow.pem\n" in api


def test_worker_has_no_secret_of_the_metadata_or_of_the_api(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    texts = {name: "".join(files(steps(wanted, name)).values()) for name in ("worker-1", "airflow-orchestration")}
    secrets = ("postgres-airflow_admin", "airflow-jwt", "airflow-fernet")
    assert [name for name in secrets if f"secret-of-{name}" in texts["worker-1"]] == []
    shared = ("postgres-airflow_results", "redis-password", "airflow-secret-key")
    for text in texts.values():
        assert [name for name in shared if f"secret-of-{name}" not in text] == []


def test_gates_database_and_firewalls_admit_the_workers(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, CELERY.replace("{template: ", "{firewall: true, template: "))
    line = files(steps(wanted, "analytics-platform"))["/home/analytics/.ssh/authorized_keys"]
    assert line.startswith('restrict,from="192.168.2.69,192.168.2.98,192.168.2.99",command=')
    (postgres,) = (each for each in wanted.containers if each.name == "postgres-data")
    context = ServiceContext(inventory=wanted, container=postgres, secret_store=FixedSecretStore(), host_keys={})
    rows = [row.split() for row in hba(context).decode().splitlines() if row.startswith("hostssl")]
    assert {address for _, _, role, address, _ in rows if role == "airflow_results"} == {
        f"192.168.2.{number}/32" for number in (69, 98, 99)
    }
    assert {address for _, _, role, address, _ in rows if role == "airflow_admin"} == {"192.168.2.69/32"}
    rules = {each.name: set(map(str, desired_firewall(wanted, each).rules)) for each in wanted.containers}
    for number, name in ((98, "worker-1"), (99, "worker-2")):
        source = f"from 192.168.2.{number}"
        assert f"in ACCEPT tcp 22 {source} (homelab: SSH for {name})" in rules["analytics-platform"]
        assert f"in ACCEPT tcp 5432 {source} (homelab: PostgreSQL for {name})" in rules["postgres-data"]
        assert f"in ACCEPT tcp 6379 {source} (homelab: Redis for {name})" in rules["queue"]
        expected = "in ACCEPT tcp 8793 from 192.168.2.69 (homelab: logs of Airflow's tasks for airflow-orchestration)"
        assert [rule for rule in rules[name] if " 8793 " in rule] == [expected]


def test_containers_close_the_queue_and_the_logs_without_a_firewall(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    rules = {name: files(steps(wanted, name)).get("/etc/homelab/closed-ports.nft") for name in ("queue", "worker-1")}
    assert "tcp dport 6379 ip saddr { 192.168.2.69, 192.168.2.98, 192.168.2.99 } accept" in str(rules["queue"])
    assert "tcp dport 8793 ip saddr { 192.168.2.69 } accept" in str(rules["worker-1"])
    assert "tcp dport 8793 reject" in str(rules["worker-1"])
    assert "/etc/homelab/closed-ports.nft" not in files(steps(wanted, "airflow-orchestration"))


def test_gateway_and_workers_are_the_clients_of_the_api(tmp_path: Path) -> None:
    text = CELERY + "  door: {vmid: 196, ip: .96, cores: 1, memory: 256, services: {gateway: {}}}\n"
    rules = files(steps(inventory(tmp_path, text), "airflow-orchestration"))["/etc/homelab/closed-ports.nft"]
    assert "tcp dport 8080 ip saddr { 192.168.2.96, 192.168.2.98, 192.168.2.99 } accept" in rules


def test_worker_starts_after_airflow_and_the_queue(tmp_path: Path) -> None:
    orders = {each.name: each.shape.startup_order for each in inventory(tmp_path).containers}
    assert orders["queue"] < orders["airflow-orchestration"] < orders["worker-1"] == orders["worker-2"]


def test_worker_waits_for_redis_and_airflow_in_the_same_container(tmp_path: Path) -> None:
    text = CELERY.replace("{airflow: {executor: celery}}", "{airflow: {executor: celery}, redis: {}}")
    found = steps(inventory(tmp_path, text.replace("services: {redis: {memory: 64MiB}}", "services: {}")), "worker-1")
    waits = [step.title for step in found if isinstance(step, WaitFor) and "the worker" in step.title]
    assert waits == [f"{name} of airflow-orchestration answers the worker" for name in ("Redis", "Airflow's API")]


def test_container_of_a_worker_has_time_for_its_tasks(tmp_path: Path) -> None:
    text = CELERY.replace("{airflow_worker: {}}", "{airflow_worker: {drain: 2m}}")
    own = text.replace(
        "cores: 1, memory: 1024, services: {airflow_worker: {q",
        "cores: 1, memory: 1024, stop_timeout: 20, services: {airflow_worker: {q",
    )
    seconds = {each.name: each.shape.stop_timeout for each in inventory(tmp_path, own).containers}
    assert (seconds["worker-1"], seconds["worker-2"], seconds["queue"]) == (150, 20, None)


def test_logs_of_tasks_are_read_from_the_workers(tmp_path: Path) -> None:
    for parts in (["airflow"], ["airflow_worker"], ["weather"]):
        assert {"worker-1", "worker-2"} <= select_logs(inventory(tmp_path), parts).keys()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            CELERY.split("  queue:")[0],
            "airflow.executor: celery needs the service `redis`, which no container has: add it, or write `local`",
        ),
        (
            CELERY.split("  worker-1:")[0],
            "airflow.executor: celery needs the service `airflow_worker`, which no container has: add it, or write",
        ),
        (CELERY.replace("executor: celery", "executor: local"), "airflow_worker: needs `executor: celery` under"),
        (
            CELERY.replace("executor: celery", 'executor: celery, version: "2.11"'),
            "airflow.executor: Airflow 2.11 has no API for tasks, so its workers would need all rights in the "
            'metadata: write `version: "3.3"`, or `executor: local`',
        ),
        (
            CELERY.replace("{airflow_worker: {}}", "{airflow_worker: {queues: [small]}}").replace(
                "large, default", "large"
            ),
            "airflow.executor: celery needs a worker with the queue `default`, that of the pipelines' tasks",
        ),
        (
            CELERY.replace("{executor: celery}", "{executor: celery}, airflow_worker: {}"),
            "airflow-orchestration.services.airflow_worker: cannot be in the container of airflow: move it to another",
        ),
        (CELERY.replace("slots: 3", "slots: 0"), "airflow_worker.slots: must be a whole number from 1 to 64, not 0"),
        (CELERY.replace("slots: 3", "drain: 1h"), "airflow_worker.drain: must be"),
        (CELERY.replace("[large, default]", "[]"), "airflow_worker.queues: must have a queue"),
        (CELERY.replace("[large, default]", "['a,b']"), "airflow_worker.queues[0]: must be a queue's name"),
    ],
)
def test_bad_combination_is_one_clear_error(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, text)
    assert error in caught.value.details


def left_celery(tmp_path: Path) -> Command:
    found = steps(inventory(tmp_path, "{}"), "airflow-orchestration")
    (step,) = (each for each in found if isinstance(each, Command) and "Celery" in each.title)
    return step


def test_workers_end_their_tasks_before_the_executor_changes_back(tmp_path: Path) -> None:
    step = left_celery(tmp_path)
    settings = tmp_path / "airflow.env"
    here = [probe.replace("/etc/homelab/airflow.env", str(settings)) for probe in step.probes()]
    assert step.check([LocalHost().run(probe) for probe in here]) is None, "a first deploy has no settings"
    settings.write_text("AIRFLOW__CORE__EXECUTOR=LocalExecutor\n")
    assert step.check([LocalHost().run(probe) for probe in here]) is None
    settings.write_text("AIRFLOW__CORE__EXECUTOR=CeleryExecutor\n")
    assert step.check([LocalHost().run(probe) for probe in here]) is not None
    titles = [each.title for each in steps(inventory(tmp_path, "{}"), "airflow-orchestration")]
    assert titles.index(step.title) < titles.index("file /etc/homelab/airflow.env")
    assert step.title not in [each.title for each in steps(inventory(tmp_path), "airflow-orchestration")]


def test_health_of_a_worker_needs_its_queue_and_its_logs() -> None:
    worker = AirflowWorker(slots=3, queues=("default", "large"))
    answers = [Result("", 0), Result("", 0)]
    assert worker.assess(answers).summary == "3 slots for default, large"
    assert worker.assess([Result("", 1), Result("", 0)]).summary == "is not connected to Redis"
    assert worker.assess([Result("", 0), Result("", 1)]).summary == "does not serve the logs of its tasks"
    assert Airflow(executor="celery").endpoints()[0].tls


MISSING = "airflow.sdk.exceptions.AirflowRuntimeError: VARIABLE_NOT_FOUND: {'message': 'Variable region not found'}"


@pytest.mark.parametrize(
    ("name", "error", "fails"),
    [
        ("worker-1", MISSING, False),
        ("worker-1", "ModuleNotFoundError: No module named 'prices_lib'", True),
        ("airflow-orchestration", MISSING, True),
    ],
)
def test_worker_accepts_dags_that_read_the_metadata_while_they_are_imported(
    tmp_path: Path, name: str, error: str, fails: bool
) -> None:
    program = files(steps(inventory(tmp_path), name))["/usr/local/sbin/homelab-airflow-check-dags"]
    package = tmp_path / "airflow" / "dag_processing"
    package.mkdir(parents=True)
    bag = f"class DagBag:\n    dag_ids, import_errors = [], {{'prices.py': {error!r}}}\n"
    (package / "dagbag.py").write_text(f"{bag}    def __init__(self, *_, **__): pass\n")
    (tmp_path / "check.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "check.py", "dags", "replaced"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == ((1, f"prices.py: {error}\n") if fails else (0, ""))
