"""Proxmox VE, over its API: the only importer of proxmoxer."""

from homelab.proxmox.client import Client
from homelab.proxmox.inspect import find_guests
from homelab.proxmox.plan_executor import PlanExecutor

__all__ = ["Client", "PlanExecutor", "find_guests"]
