"""The service node_exporter: a container's processors, memory, disks and units as metrics, and those of its services.

A timer runs the services' own commands every minute and writes their output for node_exporter's textfile collector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result, argv
from homelab.model import Endpoint, Health, Service, ServiceContext, Step
from homelab.render import render
from homelab.services.lab_certificates import certificate_metrics
from homelab.services.monitoring import Daemon
from homelab.services.security_updates import update_metrics
from homelab.steps import Directory, File, SystemdUnit

_DAEMON = Daemon("prometheus-node-exporter", 9100)
_SCRIPT = "/usr/local/sbin/homelab-metrics"
_TIMER = "homelab-metrics.timer"
_TEXT_FILES = "/var/lib/homelab/metrics"
LAST_BACKUP = "/var/lib/homelab/last-backup"  # `homelab backup` touches it after each success
_COLLECTORS = ("cpu", "filesystem", "loadavg", "meminfo", "netdev", "stat", "systemd", "textfile", "time", "uname")
_ARGUMENTS = (
    "--collector.disable-defaults",
    *(f"--collector.{name}" for name in _COLLECTORS),
    f"--collector.textfile.directory={_TEXT_FILES}",
    "--collector.systemd.unit-include=.+[.](service|timer|mount)",
    # Those of the kernel, and the ones that the limits of its own unit make.
    "--collector.filesystem.mount-points-exclude=^/(dev|proc|run|sys|tmp|var/tmp|home|root|var/lib/homelab-.*)($|/)",
    "--no-collector.netdev.netlink",  # from /proc, as the limits admit no such socket
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeExporter(Service):
    """node_exporter: metrics of a container and of its services."""

    many: ClassVar[bool] = True

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the metrics."""
        return (
            Endpoint(
                name="metrics",
                port=_DAEMON.port,
                description="metrics of the container",
                audience="dependents",
                protocol="http",
                metrics_path="/metrics",
            ),
        )

    def data_folders(self) -> Sequence[str]:
        """Return its folder, which stays empty, and that of the services' metrics."""
        return (*_DAEMON.sandbox.writable, _TEXT_FILES)

    def units(self) -> Sequence[str]:
        """Return its unit, and the timer of the services' metrics."""
        return (_DAEMON.unit, _TIMER)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return its unit, and the script and the timer for the metrics of the services."""
        commands = {"certificates": certificate_metrics(), "backup": backup_metrics()}
        for service in context.container.services.values():
            commands |= service.metric_commands(context)
        text = render(
            "node_exporter/metrics.j2", folder=_TEXT_FILES, commands=commands, hourly={"updates": update_metrics()}
        )
        script = File(_SCRIPT, text, mode=0o700)
        unit = File(
            "/etc/systemd/system/homelab-metrics.service",
            render("node_exporter/homelab-metrics.service.j2", script=_SCRIPT, folder=_TEXT_FILES),
        )
        timer = File(f"/etc/systemd/system/{_TIMER}", render("node_exporter/homelab-metrics.timer.j2"))
        return (
            Directory("/var/lib/homelab"),
            Directory(_TEXT_FILES),
            script,
            unit,
            timer,
            *_DAEMON.steps(context, _ARGUMENTS, packages=["dbus"]),
            SystemdUnit(_TIMER, triggered_by=[script, unit, timer], settle=0),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the states of its units, and a request for the failed units of the container."""
        failed = _DAEMON.request("/metrics", "^node_systemd_unit_state.*state=.failed.")
        return (argv("systemctl", "is-active", *self.units()), f"{failed} | grep ' 1$' || true", _DAEMON.request("/"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if both units run and it answers."""
        if not all(each.ok for each in answers):
            return Health(False, "does not answer" if answers[0].ok else "a unit of it is not active")
        failed = len(answers[1].text.splitlines())
        return Health(True, f"failed units in the container: {failed}", {"failed_units": failed})


def backup_metrics(file: str = LAST_BACKUP) -> str:
    """Return shell text that prints the time of the last backup as a metric; it fails before the first one."""
    return f'at=$(stat -c %Y {file}) && echo "homelab_backup_timestamp_seconds $at"'
