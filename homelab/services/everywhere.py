"""What has to be so in every container, whatever runs there."""

from __future__ import annotations

from collections.abc import Sequence

from homelab.model import Site, Step
from homelab.render import render
from homelab.steps import Command, Directory, File


def everywhere(site: Site) -> Sequence[Step]:
    """Nobody logs in over SSH with a password, and as root only those whom the inventory names, and homelab."""
    _, operator = site.vault.key_pair("operator")
    keys = list(dict.fromkeys((operator.strip(), *site.container.ssh_keys)))
    settings = File("/etc/ssh/sshd_config.d/homelab.conf", render("sshd.conf.j2"),
                    validate='/usr/sbin/sshd -t -f "$new"')
    # On Ubuntu a socket starts ssh.service, so it may not run yet.
    reloaded = Command("sshd has read its settings", "true", "systemctl try-reload-or-restart ssh.service",
                       watches=[settings])
    return (
        settings, reloaded,
        Directory("/root/.ssh", mode=0o700),
        File("/root/.ssh/authorized_keys", render("authorized_keys.j2", keys=keys), mode=0o600),
    )
