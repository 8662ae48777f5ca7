"""The dashboards: Stack, Container, PostgreSQL, Airflow, Pipeline and Proxmox."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import graph, number, page, variable

_WARNING = ((1, "orange"),)
_PAIR = ((0, "red"), (1, "green"))  # of a value that is 1 while all is well
_COMPLETE = ((0, "red"), (0.9, "green"))
_HOUR = ((3600, "red"),)  # seconds
_NONE = ((1, "red"),)  # of a number that is 0 while all is well
_FREE = "node_filesystem_avail_bytes{{{0}}} / node_filesystem_size_bytes{{{0}}}"
_IDLE = 'avg by (container) (rate(node_cpu_seconds_total{{mode="idle"{0}}}[$__rate_interval]))'


def stack() -> Dashboard:
    """Return the dashboard of all containers and services."""
    return (
        page("Stack")
        .with_panel(number("Endpoints that answer", "count(up == 1)"))
        .with_panel(number("Endpoints without an answer", "count(up == 0) or vector(0)", limits=_NONE))
        .with_panel(number("Open incidents", 'count(ALERTS{alertstate="firing"}) or vector(0)', limits=_NONE))
        .with_panel(number("Pending security updates", "sum(homelab_security_updates_pending)", limits=_WARNING))
        .with_panel(graph("Processors", {"{{container}}": f"1 - {_IDLE.format('')}"}, "percentunit", 1))
        .with_panel(
            graph(
                "Memory",
                {"{{container}}": "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"},
                "percentunit",
                1,
            )
        )
        .with_panel(graph("Disks", {"{{container}} {{mountpoint}}": f"1 - {_FREE.format('')}"}, "percentunit", 1))
        .with_panel(graph("Time of the web UIs' answers", {"{{service}}": "probe_duration_seconds"}, "s"))
        .with_panel(number("Web UIs", "probe_success", legend="{{service}}", limits=_PAIR).span(12))
        .with_panel(
            number(
                "Certificates expire in",
                "homelab_certificate_expiry_timestamp_seconds - time()",
                "s",
                "{{container}} {{service}}",
            ).span(12)
        )
    )


def container() -> Dashboard:
    """Return the dashboard of one container, or of several."""
    chosen = 'container=~"$container"'
    failed = f'sum(node_systemd_unit_state{{{chosen},state="failed"}})'
    return (
        page("Container", variable("container", "node_time_seconds"))
        .with_panel(number("Failed units", failed, limits=_NONE))
        .with_panel(number("Runs for", f"time() - min(node_boot_time_seconds{{{chosen}}})", "s"))
        .with_panel(number("Memory available", f"min(node_memory_MemAvailable_bytes{{{chosen}}})", "bytes"))
        .with_panel(number("Disk available", f"min(node_filesystem_avail_bytes{{{chosen}}})", "bytes"))
        .with_panel(
            graph(
                "Processors by kind of work",
                {
                    "{{container}} {{mode}}": "sum by (container, mode) "
                    f'(rate(node_cpu_seconds_total{{{chosen},mode!="idle"}}[$__rate_interval]))'
                },
            )
        )
        .with_panel(graph("Load", {"{{container}}": f"node_load1{{{chosen}}}"}))
        .with_panel(
            graph(
                "Memory",
                {
                    "{{container}} used": f"node_memory_MemTotal_bytes{{{chosen}}} - "
                    f"node_memory_MemAvailable_bytes{{{chosen}}}",
                    "{{container}} total": f"node_memory_MemTotal_bytes{{{chosen}}}",
                },
                "bytes",
            )
        )
        .with_panel(graph("Disks", {"{{container}} {{mountpoint}}": f"1 - {_FREE.format(chosen)}"}, "percentunit", 1))
        .with_panel(
            graph(
                "Network",
                {
                    f"{{{{container}}}} {{{{device}}}} {way}": "rate(node_network_"
                    f'{way}_bytes_total{{{chosen},device!="lo"}}[$__rate_interval])'
                    for way in ("receive", "transmit")
                },
                "Bps",
            )
        )
        .with_panel(
            graph(
                "Units by state",
                {"{{container}} {{state}}": f"sum by (container, state) (node_systemd_unit_state{{{chosen}}})"},
            )
        )
    )


def postgresql() -> Dashboard:
    """Return the dashboard of PostgreSQL."""
    hits, reads = (
        "rate(pg_stat_database_blks_hit[$__rate_interval])",
        "rate(pg_stat_database_blks_read[$__rate_interval])",
    )
    return (
        page("PostgreSQL")
        .with_panel(number("Answers", "min(pg_up)", limits=_PAIR))
        .with_panel(number("Connections", "sum(pg_stat_activity_count)"))
        .with_panel(number("Most connections", "max(pg_settings_max_connections)"))
        .with_panel(number("Longest transaction", "max(pg_stat_activity_max_tx_duration)", "s", limits=_HOUR))
        .with_panel(graph("Connections", {"{{state}}": "sum by (state) (pg_stat_activity_count)"}))
        .with_panel(
            graph(
                "Transactions",
                {
                    f"{{{{datname}}}} {kind}": f"rate(pg_stat_database_xact_{kind}[$__rate_interval])"
                    for kind in ("commit", "rollback")
                },
                "ops",
            )
        )
        .with_panel(graph("Size of the databases", {"{{datname}}": "pg_database_size_bytes"}, "bytes"))
        .with_panel(graph("Blocks from the cache", {"share": f"{hits} / ({hits} + {reads})"}, "percentunit", 1))
        .with_panel(
            graph(
                "Rows",
                {
                    f"{{{{datname}}}} {kind}": f"rate(pg_stat_database_tup_{kind}[$__rate_interval])"
                    for kind in ("inserted", "updated", "deleted")
                },
                "ops",
            )
        )
        .with_panel(graph("Deadlocks", {"{{datname}}": "increase(pg_stat_database_deadlocks[1h])"}))
    )


def airflow() -> Dashboard:
    """Return the dashboard of Airflow."""
    chosen = 'dag=~"$dag"'
    return (
        page("Airflow", variable("dag", "homelab_airflow_dag_paused"))
        .with_panel(
            number(
                "Scheduler's last heartbeat",
                "time() - max(homelab_airflow_scheduler_heartbeat_timestamp_seconds)",
                "s",
                limits=((120, "red"),),
            )
        )
        .with_panel(number("DAGs with import errors", "sum(homelab_airflow_import_errors)", limits=_NONE))
        .with_panel(number("Paused DAGs", "sum(homelab_airflow_dag_paused)", limits=_WARNING))
        .with_panel(
            number(
                "DAGs with a failed last run",
                "count(homelab_airflow_dag_last_run_success == 0) or vector(0)",
                limits=_NONE,
            )
        )
        .with_panel(
            graph("Last run: duration", {"{{dag}}": f"homelab_airflow_dag_last_run_duration_seconds{{{chosen}}}"}, "s")
        )
        .with_panel(
            graph(
                "Last run: age",
                {"{{dag}}": f"time() - homelab_airflow_dag_last_run_timestamp_seconds{{{chosen}}}"},
                "s",
            )
        )
        .with_panel(graph("Runs of the last day", {"{{dag}} {{state}}": f"homelab_airflow_dag_runs{{{chosen}}}"}))
        .with_panel(graph("Last run: success", {"{{dag}}": f"homelab_airflow_dag_last_run_success{{{chosen}}}"}, top=1))
    )


def pipeline() -> Dashboard:
    """Return the dashboard of one pipeline, or of several."""

    def metric(name: str) -> str:
        return f'homelab_pipeline_{name}{{pipeline=~"$pipeline"}}'

    return (
        page("Pipeline", variable("pipeline", "homelab_pipeline_last_build_success"))
        .with_panel(number("Last build", metric("last_build_success"), legend="{{pipeline}}", limits=_PAIR))
        .with_panel(number("Published", f"time() - {metric('published_timestamp_seconds')}", "s", "{{pipeline}}"))
        .with_panel(number("Failed tests", metric("last_build_tests_failed"), legend="{{pipeline}}", limits=_NONE))
        .with_panel(
            number(
                "Completeness",
                metric("completeness_ratio"),
                "percentunit",
                "{{pipeline}}",
                ((0, "red"), (0.9, "green")),
            )
        )
        .with_panel(
            graph("Age of the newest row", {"{{pipeline}}": f"time() - {metric('newest_row_timestamp_seconds')}"}, "s")
        )
        .with_panel(graph("Duration of the last build", {"{{pipeline}}": metric("last_build_duration_seconds")}, "s"))
        .with_panel(graph("Rows", {"{{pipeline}} {{table}}": metric("rows")}))
        .with_panel(
            graph(
                "Issues and quarantined responses",
                {"{{pipeline}} issues": metric("issues"), "{{pipeline}} quarantined": metric("quarantined_responses")},
            )
        )
        .with_panel(graph("Size of the published file", {"{{pipeline}}": metric("published_bytes")}, "bytes"))
        .with_panel(
            graph("Age of the last build", {"{{pipeline}}": f"time() - {metric('last_build_timestamp_seconds')}"}, "s")
        )
    )


def proxmox() -> Dashboard:
    """Return the dashboard of Proxmox's nodes, guests and storages."""
    named = "* on (id) group_left (name) pve_guest_info"
    storage = 'id=~"storage/.*"'
    node = 'id=~"node/.*"'
    return (
        page("Proxmox")
        .with_panel(number("Nodes that are online", f"sum(pve_up{{{node}}})"))
        .with_panel(number("Guests that run", 'sum(pve_up{id=~"(lxc|qemu)/.*"})'))
        .with_panel(number("Guests that are stopped", 'count(pve_up{id=~"(lxc|qemu)/.*"} == 0) or vector(0)'))
        .with_panel(number("Version", "pve_version_info", legend="{{version}}"))
        .with_panel(graph("Nodes: processors", {"{{id}}": f"pve_cpu_usage_ratio{{{node}}}"}, "percentunit", 1))
        .with_panel(
            graph(
                "Nodes: memory",
                {"{{id}}": f"pve_memory_usage_bytes{{{node}}} / pve_memory_size_bytes{{{node}}}"},
                "percentunit",
                1,
            )
        )
        .with_panel(graph("Guests: processors", {"{{name}}": f"pve_cpu_usage_ratio {named}"}, "percentunit"))
        .with_panel(graph("Guests: memory", {"{{name}}": f"pve_memory_usage_bytes {named}"}, "bytes"))
        .with_panel(
            graph(
                "Storages",
                {"{{id}}": f"pve_disk_usage_bytes{{{storage}}} / pve_disk_size_bytes{{{storage}}}"},
                "percentunit",
                1,
            )
        )
        .with_panel(
            graph(
                "Guests: network",
                {
                    f"{{{{name}}}} {way}": f"rate(pve_network_{way}_bytes_total[$__rate_interval]) {named}"
                    for way in ("receive", "transmit")
                },
                "Bps",
            )
        )
    )


def pages() -> Sequence[Dashboard]:
    """Return all dashboards."""
    return (stack(), container(), postgresql(), airflow(), pipeline(), proxmox())
