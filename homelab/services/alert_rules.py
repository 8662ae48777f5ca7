"""The alert rules of Prometheus; docs/how-to/runbooks/ has one page for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from homelab.model import Inventory
from homelab.model.inventory import WEATHER

_RUNBOOKS = "docs/how-to/runbooks"
_OF_CONTAINER = "of {{ $labels.container }}"
_OF_PIPELINE = "of the pipeline {{ $labels.pipeline }}"
_AGE = "{{ $value | humanizeDuration }}"
_SHARE = "{{ $value | humanizePercentage }}"
_HOUR, _DAY = 3600, 86400
_LATE = {"@hourly": 3 * _HOUR, "@daily": 26 * _HOUR, "@weekly": 8 * _DAY, "@monthly": 32 * _DAY, "@yearly": 367 * _DAY}
_DOWN = "max by (container) (up) == 0"
_FREE = "node_filesystem_avail_bytes / node_filesystem_size_bytes"


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule: its name, the condition in PromQL, the time for which it has to hold, and the message.

    `runbook` names the page with the cause and the commands that help.
    """

    name: str
    expression: str
    lasting: str
    severity: Literal["warning", "critical"]
    summary: str
    runbook: str

    @property
    def page(self) -> str:
        """The file of the runbook."""
        return f"{_RUNBOOKS}/{self.runbook}.md"

    def rule(self) -> Mapping[str, object]:
        """Return the rule in Prometheus' format."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": self.page},
        }


def rules_file(rules: Sequence[Alert]) -> bytes:
    """Return the file of the rules: JSON, which Prometheus reads as YAML."""
    group = {"name": "homelab", "rules": [alert.rule() for alert in rules]}
    return (json.dumps({"groups": [group]}, indent=2) + "\n").encode()


def alerts(inventory: Inventory) -> Sequence[Alert]:
    """Return all alert rules for an inventory."""
    return [*_reachability(), *_containers(inventory), *_postgres(), *_pipelines(inventory), *_airflow(), *_upkeep()]


def _reachability() -> Iterator[Alert]:
    yield Alert(
        "ContainerDown", _DOWN, "1m", "critical", "No service of {{ $labels.container }} answers", "container-down"
    )
    yield Alert(
        "TargetDown",
        f"up == 0 unless on (container) ({_DOWN})",
        "1m",
        "critical",
        f"{{{{ $labels.job }}}} {_OF_CONTAINER} does not answer Prometheus",
        "target-down",
    )
    yield Alert(
        "EndpointDown",
        "probe_success == 0",
        "1m",
        "critical",
        f"{{{{ $labels.service }}}} {_OF_CONTAINER} does not answer at {{{{ $labels.instance }}}}",
        "endpoint-down",
    )


def _containers(inventory: Inventory) -> Iterator[Alert]:
    not_running = ['node_systemd_unit_state{state="failed"} == 1']
    not_running += [
        f'node_systemd_unit_state{{container="{container.name}",name=~"{units}",state="active"}} == 0'
        for container in inventory.containers
        if (units := "|".join(unit for service in container.services.values() for unit in service.units()))
    ]
    yield Alert(
        "UnitFailed",
        f"count by (container, name) ({' or '.join(not_running)})",
        "1m",
        "critical",
        f"The unit {{{{ $labels.name }}}} {_OF_CONTAINER} does not run",
        "unit-failed",
    )
    yield Alert(
        "DiskFull",
        f"predict_linear(node_filesystem_avail_bytes[6h], {4 * _DAY}) < 0 and {_FREE} < 0.5 or {_FREE} < 0.05",
        "5m",
        "warning",
        f"The file system {{{{ $labels.mountpoint }}}} {_OF_CONTAINER} is full within four days",
        "disk-full",
    )
    yield Alert(
        "MemoryLow",
        "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1",
        "10m",
        "warning",
        f"Only {_SHARE} of the memory {_OF_CONTAINER} are available",
        "memory-low",
    )
    yield Alert(
        "ClockSkew",
        "abs(node_time_seconds - timestamp(node_time_seconds)) > 5",
        "5m",
        "warning",
        f"The clock {_OF_CONTAINER} differs from Prometheus' clock by {_AGE}",
        "clock-skew",
    )


def _postgres() -> Iterator[Alert]:
    yield Alert("PostgresDown", "pg_up == 0", "1m", "critical", "PostgreSQL does not answer", "postgres-down")
    yield Alert(
        "PostgresConnections",
        "sum by (container) (pg_stat_activity_count) / max by (container) (pg_settings_max_connections) > 0.8",
        "5m",
        "warning",
        f"{_SHARE} of PostgreSQL's connections are in use",
        "postgres-connections",
    )
    yield Alert(
        "PostgresLongTransaction",
        f"max by (container, datname) (pg_stat_activity_max_tx_duration) > {_HOUR}",
        "1m",
        "warning",
        f"A transaction in {{{{ $labels.datname }}}} has been open for {_AGE}",
        "postgres-long-transaction",
    )


def _pipelines(inventory: Inventory) -> Iterator[Alert]:
    limits = {each.name: each.expected_every.seconds for each in inventory.pipelines if each.expected_every}
    if inventory.weather:
        limits[WEATHER] = _late_after(inventory.weather.schedule)

    def older(metric: str) -> str:
        """Return the condition that a time of a pipeline is older than its limit."""
        return " or ".join(
            f'time() - homelab_pipeline_{metric}_timestamp_seconds{{pipeline="{name}"}} > {limit:.0f}'
            for name, limit in limits.items()
        )

    yield Alert(
        "PipelineFailed",
        "homelab_pipeline_last_build_success == 0",
        "0m",
        "critical",
        f"The last build {_OF_PIPELINE} failed",
        "pipeline-failed",
    )
    if limits:
        yield Alert(
            "PipelineLate",
            older("published"),
            "1m",
            "critical",
            f"The data {_OF_PIPELINE} is {_AGE} old",
            "pipeline-late",
        )
        yield Alert(
            "DataStale",
            older("newest_row"),
            "1m",
            "warning",
            f"The newest row {_OF_PIPELINE} arrived {_AGE} ago",
            "data-stale",
        )
    yield Alert(
        "CompletenessLow",
        "homelab_pipeline_completeness_ratio < 0.9",
        "1h",
        "warning",
        f"Only {_SHARE} of the expected observations {_OF_PIPELINE} arrived",
        "completeness-low",
    )


def _late_after(schedule: str) -> float:
    """Return the seconds after which data of a schedule is late; a cron line counts as its nearest preset."""
    if schedule in _LATE:
        return _LATE[schedule]
    _, hour, *days = schedule.split()
    if days != ["*"] * 3:
        return _LATE["@weekly" if days[:2] == ["*"] * 2 else "@monthly" if days[1] == "*" else "@yearly"]
    return _LATE["@hourly" if hour == "*" else "@daily"]


def _airflow() -> Iterator[Alert]:
    yield Alert(
        "SchedulerDown",
        "time() - homelab_airflow_scheduler_heartbeat_timestamp_seconds > 120",
        "30s",
        "critical",
        f"Airflow's scheduler has had no heartbeat for {_AGE}",
        "scheduler-down",
    )
    yield Alert(
        "DagFailed",
        "homelab_airflow_dag_last_run_success == 0",
        "0m",
        "warning",
        "The last run of the DAG {{ $labels.dag }} failed",
        "dag-failed",
    )


def _upkeep() -> Iterator[Alert]:
    yield Alert(
        "BackupOld",
        f"time() - homelab_backup_timestamp_seconds > {8 * _DAY}",
        "1h",
        "warning",
        f"The newest backup {_OF_CONTAINER} is {_AGE} old",
        "backup-old",
    )
    yield Alert(
        "CertificateExpiring",
        f"homelab_certificate_expiry_timestamp_seconds - time() < {30 * _DAY}",
        "1h",
        "warning",
        f"The certificate of {{{{ $labels.service }}}} {_OF_CONTAINER} expires in {_AGE}",
        "certificate-expiring",
    )
    yield Alert(
        "UpdatesPending",
        "homelab_security_updates_pending > 0",
        "2d",
        "warning",
        f"{{{{ $value }}}} security updates {_OF_CONTAINER} have been pending for two days",
        "updates-pending",
    )
