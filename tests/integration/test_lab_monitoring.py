"""Monitoring in a lab: every endpoint is read, and all of it is removed. test_lab_alerts.py has the messages."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.lab import Lab
from homelab.paths import bundled_path
from homelab.pipelines.pipeline_metrics import labelled
from homelab.runtime.lab_report import report_lab
from homelab.runtime.lab_sample import Sampler
from homelab.sandbox import Sandbox
from tests.integration.lab_fixture import LabFixture, changes, in_a_lab, lab_with, query_prometheus
from tests.integration.waiting import until

LAB = Lab("monitoring", IPv4Network("10.99.2.96/28"), "hl-moni", 18176, 8259)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.96/28, gateway: .97, bridge: x}
defaults: {monitoring: MONITORING}
containers:
  observability: {vmid: 170, ip: .99, cores: 1, memory: 512, disk: 4, services: SERVICES}
  postgres-data: {vmid: 171, ip: .98, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
"""
SERVICES = "{prometheus: {scrape_interval: 5s}, blackbox_exporter: {}, pve_exporter: {}, alertmanager: {}}"
PROMETHEUS = "http://10.99.2.99:9090"
query = partial(query_prometheus, PROMETHEUS)
JOBS = {"prometheus", "alertmanager", "blackbox_exporter", "node_exporter", "postgres_exporter", "pve_exporter"}
UNITS = {
    "observability": [
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-blackbox-exporter",
        "prometheus-node-exporter",
        "pve-exporter",
    ],
    "postgres-data": ["prometheus-node-exporter", "prometheus-postgres-exporter"],
}
# The metrics of Airflow and of a pipeline, which this stack does not have, in the form of their sources.
OF_THE_STACK = {
    "airflow": """homelab_airflow_scheduler_heartbeat_timestamp_seconds 1795763000.1
homelab_airflow_import_errors 0.0
homelab_airflow_dag_paused{dag="weather_ingestion_pipeline"} 0.0
homelab_airflow_dag_runs{dag="weather_ingestion_pipeline",state="success"} 24.0
homelab_airflow_dag_last_run_success{dag="weather_ingestion_pipeline"} 1.0
homelab_airflow_dag_last_run_timestamp_seconds{dag="weather_ingestion_pipeline"} 1795763000.0
homelab_airflow_dag_last_run_duration_seconds{dag="weather_ingestion_pipeline"} 21.5
""",
    "pipeline-weather": """homelab_pipeline_last_build_timestamp_seconds{pipeline="weather",table=""} 1795763000.1
homelab_pipeline_last_build_success{pipeline="weather",table=""} 1
homelab_pipeline_last_build_duration_seconds{pipeline="weather",table=""} 9.5
homelab_pipeline_last_build_tests_failed{pipeline="weather",table=""} 0
homelab_pipeline_published_timestamp_seconds{pipeline="weather",table=""} 1795763000
homelab_pipeline_published_bytes{pipeline="weather",table=""} 3500000
homelab_pipeline_rows{pipeline="weather",table="weather_daily"} 90
homelab_pipeline_newest_row_timestamp_seconds{pipeline="weather",table=""} 1795763000
homelab_pipeline_issues{pipeline="weather",table=""} 0
homelab_pipeline_quarantined_responses{pipeline="weather",table=""} 0
homelab_pipeline_completeness_ratio{pipeline="weather",table=""} 1
""",
}

pytestmark = in_a_lab()


def inventory(monitoring: bool) -> str:
    return INVENTORY.replace("MONITORING", str(monitoring).lower()).replace(
        "SERVICES", SERVICES if monitoring else "{}"
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("monitoring"), inventory(True)) as stack:
        stack.up()
        stack.session.secrets.set("pve-exporter", LAB.monitoring_token_file.read_text().strip())
        changes(stack)
        yield stack


def test_every_endpoint_with_metrics_is_read_after_one_deploy(stack: LabFixture) -> None:
    # Prometheus may have read an endpoint before its program answered.
    until(lambda: {each["metric"]["job"] for each in query("up == 1")} >= JOBS and query("up == 0") == [])
    until(lambda: query("pg_up == 1") and query("pg_settings_max_connections"))
    assert query("pg_stat_activity_max_tx_duration")
    until(lambda: query('probe_success{service="prometheus"} == 1'))
    until(lambda: query('homelab_certificate_expiry_timestamp_seconds{service="postgres"} > time()'))
    until(lambda: len(query("homelab_security_updates_pending")) == 2)
    for metric in ("node_memory_MemAvailable_bytes", "node_filesystem_avail_bytes", "node_network_receive_bytes_total"):
        assert {each["metric"]["container"] for each in query(metric)} == set(UNITS), metric
    names = 'pve_guest_info{tags=~".*homelab.*"} * on (id) group_left () pve_up == 1'
    assert {each["metric"]["name"] for each in until(lambda: query(names))} == set(UNITS)
    assert changes(stack, dry_run=True) == []
    assert changes(stack) == []
    services = [service for each in report_lab(stack.session).containers for service in each.services]
    assert [service.health.summary for service in services if service.health and not service.health.healthy] == []


def test_top_draws_the_history_of_prometheus(stack: LabFixture) -> None:
    sampler = Sampler(stack.session)
    history = until(lambda: (found := sampler.sample().history).cpu.keys() >= set(UNITS) and found)
    sampler.close()
    assert history.source == "Prometheus, the last hour"
    assert set(history.cpu) == set(history.memory) == set(UNITS)
    shares = [value for values in (*history.cpu.values(), *history.memory.values()) for value in values]
    assert all(0 <= value <= 1 for value in shares)
    assert history.connections
    assert min(history.connections) > 0


@pytest.mark.parametrize(("container", "units"), UNITS.items())
def test_programs_listen_on_the_address_of_the_container_only_and_are_hardened(
    stack: LabFixture, container: str, units: list[str]
) -> None:
    listening = stack.run("ss -Hltn | awk '{print $4}'", container).split()
    ports = [each for each in listening if re.search(":9[0-9]{3}$", each)]
    assert len(ports) == len(units)
    assert [each for each in ports if not each.startswith("10.99.2.9")] == []
    for unit in units:
        stack.run(f"systemd-analyze security --no-pager --threshold=30 {unit}.service", container)
        # The password is neither in the arguments nor readable for other users.
    assert "secret" not in stack.run("ps -eo args | grep [p]rometheus-", container)


def test_idle_services_of_monitoring_need_at_most_350_mb(stack: LabFixture) -> None:
    used = {}
    for container, units in UNITS.items():
        for unit in units:
            user = f"homelab-{unit.removeprefix('prometheus-')}"
            used[f"{user} of {container}"] = round(stack.memory(user, container) / 1000)
    print(used, sum(used.values()))
    assert min(used.values()) > 0
    assert sum(used.values()) <= 350


def test_metrics_of_a_pipeline_are_read_with_the_privileges_of_its_user(stack: LabFixture) -> None:
    # PostgreSQL's user stands for that of a pipeline: its folder is closed to all others.
    data = "/var/lib/postgresql/15/main"
    command = labelled("prices", Sandbox("postgres", (data,)).read(f"{data}/metrics.prom"))
    psql = "psql --version | sed 's/.*/psql_runs 1/'"
    with stack.connect("postgres-data") as host:
        lines = f"write pipeline-prices {shlex.quote(command)}\nwrite psql {shlex.quote(psql)}\n"
        assert host.run("cat >>/usr/local/sbin/homelab-metrics", stdin=lines.encode()).ok
    stack.run(f"cd {data}; echo homelab_pipeline_issues 3 >metrics.prom; chown postgres: metrics.prom", "postgres-data")
    stack.run("systemctl start homelab-metrics.service", "postgres-data")
    written = stack.run("cd /var/lib/homelab/metrics; cat pipeline-prices.prom psql.prom", "postgres-data")
    assert written.splitlines() == ['homelab_pipeline_issues{pipeline="prices",table=""} 3', "psql_runs 1"]
    stack.run(f"ln -sf /etc/shadow {data}/metrics.prom; systemctl start homelab-metrics.service", "postgres-data")
    assert stack.run("cat /var/lib/homelab/metrics/pipeline-prices.prom", "postgres-data") == ""
    assert "file /usr/local/sbin/homelab-metrics" in " ".join(changes(stack))


def test_each_query_of_each_dashboard_returns_series(stack: LabFixture) -> None:
    lines = [f"write {name} {shlex.quote(f'printf %s {shlex.quote(text)}')}\n" for name, text in OF_THE_STACK.items()]
    with stack.connect("postgres-data") as host:
        assert host.run("cat >>/usr/local/sbin/homelab-metrics", stdin="".join(lines).encode()).ok
    stack.run("systemctl start homelab-metrics.service", "postgres-data")
    waiting = {
        target["expr"]: f"{path.stem}: {panel['title']}"
        for path in bundled_path("templates/grafana/dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    }
    assert len(waiting) > 50

    def without_series() -> list[str]:
        for expression in list(waiting):
            if query(re.sub(r"\$(container|dag|pipeline)\b", ".*", expression).replace("$__rate_interval", "1m")):
                del waiting[expression]
        return sorted(waiting.values())

    until(lambda: without_series() == [])
    assert "file /usr/local/sbin/homelab-metrics" in " ".join(changes(stack))


def test_services_are_removed_with_their_lines(stack: LabFixture, tmp_path: Path) -> None:
    path = stack.inventory.path
    path.write_text(inventory(False))
    removed = replace(load([path, LAB.overlay]), state_dir=stack.inventory.state_dir)
    without = LabFixture(removed)
    changes(without)
    for container in UNITS:
        assert not re.search(":9[0-9]{3}", without.run("ss -Hltn", container)), container
    assert changes(without) == []
    can_log_in = "select rolcanlogin from pg_roles where rolname = $$postgres_exporter$$"
    assert without.run(f"runuser -u postgres -- psql -qAtc '{can_log_in}'", "postgres-data") == "f"
