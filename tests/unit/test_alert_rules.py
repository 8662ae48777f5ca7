"""The alert rules and targets of Prometheus: promtool accepts them, and each alert fires, resolves, has a runbook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homelab.inventory import load
from homelab.model import Alerts, Duration, Inventory, ServiceContext
from homelab.paths import bundled_path
from homelab.services.alert import Alert, rules_file
from homelab.services.alert_rules import alerts
from homelab.services.inhibitions import CAUSES, inhibitions
from homelab.services.node_exporter import backup_metrics
from homelab.services.scrape_targets import probe_targets, targets
from homelab.services.superset import Superset
from homelab.steps import File
from tests.support import FixedSecretStore, LocalHost, observability

ROOT = Path(__file__).parents[2]
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=ROOT / ".venv" / "promtool")
AMTOOL = shutil.which("amtool") or shutil.which("amtool", path=ROOT / ".venv" / "promtool")
needs_amtool = pytest.mark.skipif(AMTOOL is None, reason="amtool is missing: run `./bootstrap --test`")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: run `./bootstrap --test`")
DISK = 'node_filesystem_{}_bytes{{container="a",mountpoint="/"}}'
HOURS = 3 * 3600
# For each alert: the series while it holds and afterwards, by name; the interval of the samples; the times at which it
# fires and has resolved. The times of promtool begin at 0.
SERIES: dict[str, tuple[dict[str, str], str, str, str]] = {
    "ContainerDown": ({'up{job="x",container="a"}': "0x5 1x5"}, "1m", "3m", "10m"),
    "TargetDown": ({'up{job="x",container="a"}': "0x5 1x5", 'up{job="y",container="a"}': "1x11"}, "1m", "3m", "10m"),
    "EndpointDown": ({'probe_success{service="x",container="a"}': "0x5 1x5"}, "1m", "3m", "10m"),
    "UnitFailed": ({'node_systemd_unit_state{state="failed",name="u",container="a"}': "1x5 0x5"}, "1m", "3m", "10m"),
    "DiskFull": ({DISK.format("avail"): "40-0.25x100 90x300", DISK.format("size"): "100x401"}, "5m", "8h", "1200m"),
    "MemoryLow": (
        {
            'node_memory_MemAvailable_bytes{container="a"}': "5x20 50x20",
            'node_memory_MemTotal_bytes{container="a"}': "100x41",
        },
        "1m",
        "15m",
        "30m",
    ),
    "ClockSkew": ({'node_time_seconds{container="a"}': "60+60x10 660+60x10"}, "1m", "8m", "15m"),
    "PostgresDown": ({'pg_up{container="a"}': "0x5 1x5"}, "1m", "3m", "10m"),
    "PostgresConnections": (
        {
            'pg_stat_activity_count{container="a",state="active"}': "90x10 9x10",
            'pg_settings_max_connections{container="a"}': "100x21",
        },
        "1m",
        "8m",
        "15m",
    ),
    "PostgresLongTransaction": (
        {'pg_stat_activity_max_tx_duration{container="a",datname="d",state="active"}': "4000x5 0x5"},
        "1m",
        "3m",
        "8m",
    ),
    "RedisFull": (
        {'homelab_redis_used_memory{container="a"}': "90x10 9x10", 'homelab_redis_maxmemory{container="a"}': "100x21"},
        "1m",
        "8m",
        "15m",
    ),
    "ObjectStorageFull": (
        {'homelab_s3_free_bytes{container="a"}': "19x15 30x10", 'homelab_s3_reserve_bytes{container="a"}': "10x26"},
        "1m",
        "13m",
        "20m",
    ),
    "BrokerFull": (
        {'homelab_broker_bytes{container="a"}': "90x10 9x10", 'homelab_broker_limit_bytes{container="a"}': "100x21"},
        "1m",
        "8m",
        "15m",
    ),
    "BrokerLate": ({'homelab_broker_messages{container="a"}': "7x40 0x20"}, "1m", "35m", "50m"),
    "PipelineFailed": ({'homelab_pipeline_last_build_success{pipeline="weather"}': "0x5 1x5"}, "1m", "3m", "10m"),
    "PipelineLate": (
        {'homelab_pipeline_published_timestamp_seconds{pipeline="weather"}': f"0x{200} {HOURS}x100"},
        "1m",
        "190m",
        "220m",
    ),
    "DataStale": (
        {'homelab_pipeline_newest_row_timestamp_seconds{pipeline="weather"}': f"0x{200} {HOURS}x100"},
        "1m",
        "190m",
        "220m",
    ),
    "CompletenessLow": (
        {'homelab_pipeline_completeness_ratio{pipeline="weather"}': "0.5x100 1x20"},
        "1m",
        "90m",
        "110m",
    ),
    "CopyOutdated": (
        {
            'homelab_published_copy_timestamp_seconds{container="a",reader="b",pipeline="weather"}': "100x30 200x30",
            'homelab_published_copy_timestamp_seconds{container="a",reader="c",pipeline="weather"}': "200x61",
            'homelab_pipeline_published_timestamp_seconds{container="a",pipeline="weather"}': "200x61",
        },
        "1m",
        "20m",
        "35m",
    ),
    "SchedulerDown": (
        {'homelab_airflow_scheduler_heartbeat_timestamp_seconds{container="a"}': "0x5 360+60x5"},
        "1m",
        "4m",
        "10m",
    ),
    "DagFailed": ({'homelab_airflow_dag_last_run_success{dag="d"}': "0x5 1x5"}, "1m", "3m", "10m"),
    "BackupOld": ({'homelab_backup_timestamp_seconds{container="a"}': "0x2400 720000x100"}, "5m", "198h", "205h"),
    "CertificateExpiring": (
        {'homelab_certificate_expiry_timestamp_seconds{container="a",service="s"}': "2592000x100 9000000x20"},
        "1m",
        "90m",
        "110m",
    ),
    "UpdatesPending": ({'homelab_security_updates_pending{container="a"}': "2x600 0x50"}, "5m", "49h", "53h"),
}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    overlay = tmp_path_factory.mktemp("rules") / "overlay.yaml"
    overlay.write_text(
        json.dumps(
            {
                "defaults": {"monitoring": True},
                "containers": observability(prometheus={}, alertmanager={}, blackbox_exporter={}, pve_exporter={}),
            }
        )
    )
    return load([bundled_path("inventory.yaml"), overlay])


def promtool(folder: Path, *words: str) -> None:
    done = subprocess.run([str(PROMTOOL), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_settings_and_the_rules(inventory: Inventory, tmp_path: Path) -> None:
    container = inventory.container_with("prometheus")
    context = ServiceContext(inventory=inventory, container=container, secret_store=FixedSecretStore(), host_keys={})
    folder = "/etc/homelab/prometheus"
    for step in container.services["prometheus"].steps(context):
        if isinstance(step, File) and step.path.startswith(folder):
            text = step.content.decode().replace(folder, str(tmp_path)).replace("/etc/ssl/homelab", str(tmp_path))
            (tmp_path / step.path.rpartition("/")[2]).write_text(text)
    (tmp_path / "ca.crt").touch()
    promtool(tmp_path, "check", "config", "prometheus.yml")
    promtool(tmp_path, "check", "rules", "rules.yml")


@needs_amtool
@pytest.mark.parametrize("receivers", [{}, {"webhook": "http://192.168.2.5/", "urls": ["ntfy://192.168.2.5/topic"]}])
def test_amtool_accepts_the_settings_of_alertmanager(
    inventory: Inventory, tmp_path: Path, receivers: dict[str, Any]
) -> None:
    wanted = replace(inventory, alerts=Alerts(**receivers) if receivers else None)
    container = wanted.container_with("alertmanager")
    context = ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys={})
    steps = container.services["alertmanager"].steps(context)
    (settings,) = [step for step in steps if isinstance(step, File) and step.path.endswith("alertmanager.yml")]
    (tmp_path / "alertmanager.yml").write_bytes(settings.content)
    words = [str(AMTOOL), "check-config", "alertmanager.yml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def explained(inventory: Inventory, cause: Mapping[str, str], effect: Mapping[str, str]) -> bool:
    """Return True if the alert `cause` keeps back the message of the alert `effect`."""

    def matches(matchers: Sequence[str], labels: Mapping[str, str]) -> bool:
        parts = (re.fullmatch(r'(\w+) (=~|!=|=) "?(.*?)"?', each) for each in matchers)
        return all(part and bool(re.fullmatch(part[3], labels.get(part[1], ""))) != (part[2] == "!=") for part in parts)

    return any(
        matches(rule["source_matchers"], cause)
        and matches(rule["target_matchers"], effect)
        and all(cause.get(label) == effect.get(label) for label in rule["equal"])
        for rule in inhibitions(inventory)
    )


@pytest.mark.parametrize(
    ("cause", "effect", "expected"),
    [
        ("ContainerDown postgres-data", "UnitFailed airflow-orchestration", True),
        ("ContainerDown postgres-data", "PipelineFailed analytics-platform", True),
        ("ContainerDown airflow-orchestration", "UnitFailed postgres-data", False),
        ("ContainerDown observability", "UnitFailed airflow-orchestration", False),
        ("ContainerDown airflow-orchestration", "PipelineLate analytics-platform", True),
        ("UnitFailed airflow-orchestration", "SchedulerDown airflow-orchestration", True),
        ("UnitFailed postgres-data", "PostgresDown postgres-data", True),
        ("UnitFailed observability", "TargetDown postgres-data", False),
        ("SchedulerDown airflow-orchestration", "PipelineLate analytics-platform", True),
        ("PipelineFailed analytics-platform", "DataStale analytics-platform", True),
        ("PipelineFailed analytics-platform", "DagFailed airflow-orchestration", True),
        ("PipelineLate analytics-platform", "DataStale analytics-platform", True),
        ("DiskFull analytics-platform", "PipelineFailed analytics-platform", False),
    ],
)
def test_cause_keeps_back_the_messages_of_its_effects(
    inventory: Inventory, cause: str, effect: str, expected: bool
) -> None:
    def labels(text: str) -> dict[str, str]:
        name, container = text.split()
        found = {"alertname": name, "container": container}
        if name == "DagFailed":
            return {**found, "dag": "weather_ingestion_pipeline"}
        return {**found, "pipeline": "weather"} if name.startswith(("Pipeline", "Data")) else found

    assert explained(inventory, labels(cause), labels(effect)) is expected
    assert cause.split()[0] in CAUSES or not expected


def test_container_that_is_down_explains_its_outdated_copies(inventory: Inventory) -> None:
    down = {"alertname": "ContainerDown", "container": "dashboards"}
    outdated = {"alertname": "CopyOutdated", "container": "analytics-platform", "reader": "dashboards"}
    box = replace(inventory.container_with("prometheus"), name="dashboards", services={"superset": Superset()})
    found = replace(inventory, containers=(*inventory.containers, box))
    assert explained(found, down, outdated)
    assert not explained(found, down, {**outdated, "reader": "other"})


def rule_tests(rules: Sequence[Alert], pace: str) -> dict[str, Any]:
    """Return promtool's tests of the alerts with this interval: each fires with its series, and has resolved later."""
    found = []
    for rule in rules:
        series, interval, fires, resolved = SERIES[rule.name]
        if interval != pace:
            continue
        found.append(
            {
                "name": rule.name,
                "interval": interval,
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{rule.name}",alertstate="firing"}})',
                        "eval_time": fires,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                    {"expr": f'ALERTS{{alertname="{rule.name}"}}', "eval_time": resolved, "exp_samples": []},
                ],
            }
        )
    return {"rule_files": ["rules.yml"], "evaluation_interval": pace, "tests": found}


@needs_promtool
@pytest.mark.parametrize("pace", ["1m", "5m"])
def test_each_alert_fires_and_resolves(inventory: Inventory, tmp_path: Path, pace: str) -> None:
    rules = alerts(inventory)
    assert {rule.name for rule in rules} == set(SERIES)
    (tmp_path / "rules.yml").write_bytes(rules_file(rules, 30))
    (tmp_path / "tests.yml").write_text(json.dumps(rule_tests(rules, pace)))
    promtool(tmp_path, "test", "rules", "tests.yml")


@needs_promtool
@pytest.mark.parametrize(
    ("name", "series", "details"),
    [
        (
            "PipelineFailed",
            {
                'homelab_pipeline_last_build_success{pipeline="weather"}': "0x9",
                'homelab_pipeline_last_error_info{pipeline="weather",message="test.x: Got 1 result"}': "1x9",
                'homelab_pipeline_last_error_info{pipeline="prices",message="another"}': "1x9",
            },
            "test.x: Got 1 result ",
        ),
        (
            "DagFailed",
            {
                'homelab_airflow_dag_last_run_success{dag="d"}': "0x9",
                'homelab_airflow_dag_failed_task{dag="d",task="fetch",message="exit status 6"}': "1x9",
            },
            "fetch: exit status 6 ",
        ),
        ("DagFailed", {'homelab_airflow_dag_last_run_success{dag="d"}': "0x9"}, ""),
    ],
)
def test_alert_has_the_words_of_the_failed_program(
    inventory: Inventory, tmp_path: Path, name: str, series: Mapping[str, str], details: str
) -> None:
    (rule,) = [rule for rule in alerts(inventory) if rule.name == name]
    (label,) = [part for part in ('pipeline="weather"', 'dag="d"') if part in next(iter(series))]
    key, value = label.replace('"', "").split("=")
    notes = {
        "summary": rule.summary.replace(f"{{{{ $labels.{key} }}}}", value),
        "details": details,
        "command": rule.command.replace(f"{{{{ $labels.{key} }}}}", value),
        "runbook": rule.page,
    }
    expected = {"exp_labels": {"severity": rule.severity, key: value}, "exp_annotations": notes}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "5m", "alertname": name, "exp_alerts": [expected]}],
    }
    (tmp_path / "rules.yml").write_bytes(rules_file([rule], 30))
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}))
    promtool(tmp_path, "test", "rules", "tests.yml")


@needs_promtool
def test_pipeline_of_each_minute_is_not_late_between_two_runs_of_the_metrics_timer(
    inventory: Inventory, tmp_path: Path
) -> None:
    pipeline = replace(inventory.pipeline("weather"), name="prices", expected_every=Duration("1m"))
    rules = alerts(replace(inventory, pipelines=(*inventory.pipelines, pipeline)))
    # A build each minute; the metrics of the last one are read a minute later, and then stay the same.
    series = {'homelab_pipeline_published_timestamp_seconds{pipeline="prices"}': "0 0 30+60x20 1230x20"}
    alert = 'ALERTS{alertname="PipelineLate"}'
    expressions = [
        {"expr": alert, "eval_time": "20m", "exp_samples": []},
        {"expr": f"count({alert})", "eval_time": "26m", "exp_samples": [{"labels": "{}", "value": 1}]},
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": expressions,
    }
    (tmp_path / "rules.yml").write_bytes(rules_file(rules, 30))
    (tmp_path / "tests.yml").write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": [test]})
    )
    promtool(tmp_path, "test", "rules", "tests.yml")


def test_unit_of_a_service_that_is_stopped_is_an_incident(inventory: Inventory) -> None:
    (rule,) = [rule for rule in alerts(inventory) if rule.name == "UnitFailed"]
    assert (
        'node_systemd_unit_state{container="postgres-data",name=~"prometheus-node-exporter.service|homelab-metrics'
        '.timer|postgresql@16-main.service|prometheus-postgres-exporter.service",state="active"} == 0'
        in rule.expression
    )


def test_each_alert_has_a_runbook_and_each_runbook_an_alert(inventory: Inventory) -> None:
    rules = {rule.page: rule.name for rule in alerts(inventory)}
    rules["docs/how-to/runbooks/monitoring-down.md"] = "MonitoringDown"  # which the watcher sends
    pages = {path for path in (ROOT / "docs" / "how-to" / "runbooks").glob("*.md") if path.name != "README.md"}
    assert {str(path.relative_to(ROOT)) for path in pages} == set(rules)
    for page, name in rules.items():
        assert (ROOT / page).read_text().startswith(f"# {name}\n")


def test_command_of_each_alert_is_on_its_runbook(inventory: Inventory) -> None:
    for rule in alerts(inventory):
        verb = " ".join(word for word in rule.command.split()[:3] if "{" not in word)
        assert verb in (ROOT / rule.page).read_text(), rule.name


def test_touched_file_is_the_time_of_the_last_backup(tmp_path: Path) -> None:
    command = backup_metrics(str(tmp_path / "last-backup"))
    assert not LocalHost().run(command).ok
    (tmp_path / "last-backup").touch()
    os.utime(tmp_path / "last-backup", (5, 5))
    assert LocalHost().run(command).text == "homelab_backup_timestamp_seconds 5"


def test_each_endpoint_with_metrics_is_a_target(inventory: Inventory) -> None:
    found = {(each["labels"]["container"], each["labels"]["job"]): each["targets"] for each in targets(inventory)}
    assert found == {
        **{(c.name, "node_exporter"): [f"{c.address}:9100"] for c in inventory.containers},
        ("postgres-data", "postgres_exporter"): ["192.168.2.67:9187"],
        ("observability", "prometheus"): ["192.168.2.70:9090"],
        ("observability", "alertmanager"): ["192.168.2.70:9093"],
        ("observability", "blackbox_exporter"): ["192.168.2.70:9115"],
        ("observability", "pve_exporter"): ["192.168.2.70:9221"],
    }


def test_endpoints_of_the_lan_are_probed(inventory: Inventory) -> None:
    found = {each["labels"]["service"]: each["targets"] for each in probe_targets(inventory)}
    assert found == {
        "airflow": ["http://192.168.2.69:8080/api/v2/monitor/health"],
        "prometheus": ["http://192.168.2.70:9090/-/ready"],
    }
