"""The alert rules of Prometheus; docs/how-to/runbooks/ has one page for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from homelab.model import Container, Inventory
from homelab.pipelines.stream import stream_units
from homelab.services.alert import Alert
from homelab.services.pipeline_alerts import AGE, SHARE, details, pipeline_alerts

_OF_CONTAINER = "of {{ $labels.container }}"
_HOUR, _DAY = 3600, 86400
_DOWN = "max by (container) (up) == 0"
_LOGS = "homelab logs {{ $labels.container }}"
_AVAILABLE = "node_filesystem_avail_bytes"
_FREE = f"{_AVAILABLE} / node_filesystem_size_bytes"


def alerts(inventory: Inventory) -> Sequence[Alert]:
    """Return all alert rules for an inventory."""
    return [
        *_reachability(),
        *_containers(inventory),
        *_postgres(),
        *pipeline_alerts(inventory),
        *_airflow(),
        *_broker(),
        *_upkeep(),
    ]


def _reachability() -> Iterator[Alert]:
    yield Alert(
        "ContainerDown",
        _DOWN,
        "1m",
        "critical",
        "No service of {{ $labels.container }} answers",
        "container-down",
        "homelab status",
    )
    yield Alert(
        "TargetDown",
        f"up == 0 unless on (container) ({_DOWN})",
        "1m",
        "critical",
        f"{{{{ $labels.job }}}} {_OF_CONTAINER} does not answer Prometheus",
        "target-down",
        _LOGS,
    )
    yield Alert(
        "EndpointDown",
        "probe_success == 0",
        "1m",
        "critical",
        f"{{{{ $labels.service }}}} {_OF_CONTAINER} does not answer at {{{{ $labels.instance }}}}",
        "endpoint-down",
        _LOGS,
    )


def _containers(inventory: Inventory) -> Iterator[Alert]:
    not_running = ['node_systemd_unit_state{state="failed"} == 1']
    not_running += [
        f'node_systemd_unit_state{{container="{container.name}",name=~"{units}",state="active"}} == 0'
        for container in inventory.containers
        if (units := "|".join([*_units(container), *stream_units(inventory, container)]))
    ]
    yield Alert(
        "UnitFailed",
        f"count by (container, name) ({' or '.join(not_running)})",
        "1m",
        "critical",
        f"The unit {{{{ $labels.name }}}} {_OF_CONTAINER} does not run",
        "unit-failed",
        "homelab logs {{ $labels.container }} {{ $labels.name }}",
    )
    yield Alert(
        "DiskFull",
        # The first hours after an installation predict nothing.
        f"{_FREE} < 0.05 or "
        f"({_FREE} < 0.5 and predict_linear({_AVAILABLE}[6h], {4 * _DAY}) < 0 and {_AVAILABLE} offset 6h)",
        "1m",
        "warning",
        f"The file system {{{{ $labels.mountpoint }}}} {_OF_CONTAINER} is full within four days",
        "disk-full",
        "homelab ssh {{ $labels.container }} -- du -xh --max-depth=3 {{ $labels.mountpoint }} | sort -h | tail",
    )
    yield Alert(
        "MemoryLow",
        "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1",
        "10m",
        "warning",
        f"Only {SHARE} of the memory {_OF_CONTAINER} are available",
        "memory-low",
        "homelab ssh {{ $labels.container }} -- ps -eo rss,args --sort=-rss",
    )
    yield Alert(
        "ClockSkew",
        "abs(node_time_seconds - timestamp(node_time_seconds)) > 5",
        "5m",
        "warning",
        f"The clock {_OF_CONTAINER} differs from Prometheus' clock by {AGE}",
        "clock-skew",
        "homelab ssh {{ $labels.container }} -- date",
    )


def _units(container: Container) -> Iterator[str]:
    return (unit for service in container.services.values() for unit in service.units())


def _postgres() -> Iterator[Alert]:
    yield Alert("PostgresDown", "pg_up == 0", "1m", "critical", "PostgreSQL does not answer", "postgres-down", _LOGS)
    yield Alert(
        "PostgresConnections",
        "sum by (container) (pg_stat_activity_count) / max by (container) (pg_settings_max_connections) > 0.8",
        "5m",
        "warning",
        f"{SHARE} of PostgreSQL's connections are in use",
        "postgres-connections",
        "homelab status",
    )
    yield Alert(
        "PostgresLongTransaction",
        f"max by (container, datname) (pg_stat_activity_max_tx_duration) > {_HOUR}",
        "1m",
        "warning",
        f"A transaction in {{{{ $labels.datname }}}} has been open for {AGE}",
        "postgres-long-transaction",
        "homelab status",
    )


def _airflow() -> Iterator[Alert]:
    yield Alert(
        "SchedulerDown",
        "time() - homelab_airflow_scheduler_heartbeat_timestamp_seconds > 120",
        "30s",
        "critical",
        f"Airflow's scheduler has had no heartbeat for {AGE}",
        "scheduler-down",
        "homelab logs {{ $labels.container }} airflow-scheduler.service",
    )
    yield Alert(
        "DagFailed",
        "homelab_airflow_dag_last_run_success == 0",
        "2m",  # a failed build is reported first
        "warning",
        "The last run of the DAG {{ $labels.dag }} failed",
        "dag-failed",
        "homelab status",
        details("homelab_airflow_dag_failed_task{dag=%q}", "dag", "task", "message"),
    )
    yield Alert(
        "RedisFull",
        "homelab_redis_used_memory / homelab_redis_maxmemory > 0.8",
        "5m",
        "warning",
        f"{SHARE} of Redis' memory is in use; a full Redis refuses further tasks",
        "redis-full",
        "homelab status",
    )
    yield Alert(
        "ObjectStorageFull",
        "homelab_s3_free_bytes < 2 * homelab_s3_reserve_bytes",
        "10m",
        "warning",
        "Only {{ $value | humanize1024 }}B of the disk of the object storage are free; it soon only reads",
        "object-storage-full",
        "homelab status",
    )


def _broker() -> Iterator[Alert]:
    yield Alert(
        "BrokerFull",
        "homelab_broker_bytes / homelab_broker_limit_bytes > 0.8",
        "5m",
        "warning",
        f"{SHARE} of the broker's disk limit are in use; a full broker refuses further messages",
        "broker-full",
        "homelab status",
    )
    yield Alert(
        "BrokerLate",
        "homelab_broker_messages > 0",
        "30m",
        "warning",
        "{{ $value }} messages have been waiting in the broker for half an hour",
        "broker-late",
        "homelab status",
    )


def _upkeep() -> Iterator[Alert]:
    yield Alert(
        "BackupOld",
        f"time() - homelab_backup_timestamp_seconds > {8 * _DAY}",
        "1h",
        "warning",
        f"The newest backup {_OF_CONTAINER} is {AGE} old",
        "backup-old",
        "homelab backup {{ $labels.container }}",
    )
    yield Alert(
        "CertificateExpiring",
        f"homelab_certificate_expiry_timestamp_seconds - time() < {30 * _DAY}",
        "1h",
        "warning",
        f"The certificate of {{{{ $labels.service }}}} {_OF_CONTAINER} expires in {AGE}",
        "certificate-expiring",
        "homelab deploy",
    )
    yield Alert(
        "UpdatesPending",
        "homelab_security_updates_pending > 0",
        "2d",
        "warning",
        f"{{{{ $value }}}} security updates {_OF_CONTAINER} have been pending for two days",
        "updates-pending",
        "homelab doctor",
    )
