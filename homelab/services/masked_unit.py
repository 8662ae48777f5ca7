"""Units of packages that must not run next to homelab's own."""

from __future__ import annotations

from homelab.model import Step
from homelab.steps import Command


def masked_unit(unit: str) -> Step:
    """Return the step that keeps a package from starting its own unit, without TLS and without a password."""
    link = f"/etc/systemd/system/{unit}"
    return Command(
        f"{unit} is masked",
        f'[ "$(readlink {link})" = /dev/null ]',
        f"systemctl stop {unit} 2>/dev/null; ln -sfn /dev/null {link} && systemctl daemon-reload",
    )
