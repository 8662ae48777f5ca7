"""What has to be so in every container, whatever runs there."""

from __future__ import annotations

from collections.abc import Sequence

from homelab.model import Step
from homelab.render import render
from homelab.steps import Command, File


def everywhere() -> Sequence[Step]:
    """Nobody logs in over SSH with a password."""
    settings = File("/etc/ssh/sshd_config.d/homelab.conf", render("sshd.conf.j2"),
                    validate='/usr/sbin/sshd -t -f "$new"')
    # On Ubuntu a socket starts ssh.service, so it may not run yet.
    reloaded = Command("sshd has read its settings", "true", "systemctl try-reload-or-restart ssh.service",
                       watches=[settings])
    return settings, reloaded
