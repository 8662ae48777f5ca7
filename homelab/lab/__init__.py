"""A Proxmox-compatible node on this machine, over real LXC containers: for demos and tests."""

from homelab.lab.lab_status import LabContainer, LabStatus, status
from homelab.lab.lifecycle import down, skip_weather, up
from homelab.lab.machine import missing
from homelab.lab.settings import LABS, Lab

__all__ = ["LABS", "Lab", "LabContainer", "LabStatus", "down", "missing", "skip_weather", "status", "up"]
