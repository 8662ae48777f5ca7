"""`homelab logs`: the journal of a container's services."""

from __future__ import annotations

from homelab.host import argv
from homelab.plan import select_containers
from homelab.runtime.session import Session
from homelab.runtime.ssh_client import ssh_argv


def logs_argv(session: Session, name: str, selected: str | None, follow: bool, lines: int) -> list[str]:
    """Return the words that show a container's journal through OpenSSH's client. Raises HomelabError.

    `selected` names one of the container's services or any unit; by default, all units of its services.
    """
    services = select_containers(session.inventory, [name])[0].services
    service = services.get(selected or "")
    unit = None if service else selected
    shown = [service] if service else services.values()
    units = [unit] if unit else [u for each in shown for u in each.units()]
    words = ["journalctl", "--no-pager", f"--lines={lines}", *(f"--unit={u}" for u in units)]
    show = argv(*words, *(["--follow"] if follow else []))
    # journalctl accepts unknown units.
    require_known = f"{argv('systemctl', 'cat', '--', unit)} >/dev/null && " if unit else ""
    return ssh_argv(session, name, [require_known + show])
