"""Unattended security updates of a container, within its maintenance window."""

from __future__ import annotations

from collections.abc import Iterator

from homelab.distributions import security_origins
from homelab.model import ServiceContext, Step
from homelab.render import render
from homelab.steps import Directory, File, SystemdUnit

PACKAGE = "unattended-upgrades"
_TIMER = "apt-daily-upgrade.timer"
_DROP_IN = f"/etc/systemd/system/{_TIMER}.d"
# The server restarts when its package is upgraded.
HELD_BACK = "postgresql-[0-9]+$"


def security_updates(context: ServiceContext) -> Iterator[Step]:
    """Yield the settings of apt and the timer; without the option, only those that turn the updates off.

    The package may be installed later: then it reads these files.
    """
    sources = context.inventory.sources
    origins = security_origins(context.container.template)
    yield File(
        "/etc/apt/apt.conf.d/52homelab-security-updates",
        render("security_updates/apt.conf.j2", enabled=sources.security_updates, origins=origins, held_back=HELD_BACK),
    )
    if not sources.security_updates:
        return
    # On Ubuntu, needrestart restarts services with upgraded libraries.
    for folder in ("/etc/needrestart", "/etc/needrestart/conf.d"):
        yield Directory(folder)
    yield File("/etc/needrestart/conf.d/homelab.conf", render("security_updates/needrestart.conf.j2"))
    yield Directory(_DROP_IN)
    window = File(
        f"{_DROP_IN}/homelab.conf", render("security_updates/timer.conf.j2", window=sources.maintenance_window)
    )
    yield window
    yield SystemdUnit(_TIMER, triggered_by=[window], settle=0)


def update_metrics() -> str:
    """Return shell text that prints the number of pending security updates as a metric."""
    simulate = "LC_ALL=C apt-get -qq --simulate -o Debug::NoLocking=1 dist-upgrade"
    count = f"{simulate} | grep -c '^Inst .*[(].*[Ss]ecurity' || true"
    return f'echo "homelab_security_updates_pending $({count})"'
