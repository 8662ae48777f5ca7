"""A Proxmox-compatible node on this machine, over real LXC containers: for demos and tests."""

from homelab.lab.demo_groups import GROUPS, check_groups, write_groups
from homelab.lab.lab_status import LabContainer, LabStatus, status
from homelab.lab.lifecycle import down, skip_weather, up
from homelab.lab.machine import missing
from homelab.lab.settings import LABS, Lab

__all__ = [
    "GROUPS",
    "LABS",
    "Lab",
    "LabContainer",
    "LabStatus",
    "check_groups",
    "down",
    "missing",
    "skip_weather",
    "status",
    "up",
    "write_groups",
]
