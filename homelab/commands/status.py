"""`homelab status`: the state of containers, units and services."""

from __future__ import annotations

from homelab.runtime.lab_report import LabReport, report_lab
from homelab.runtime.session import Session


def status(session: Session) -> LabReport:
    """Return the state of the lab. Raises HomelabError only if Proxmox does not answer."""
    return report_lab(session)
