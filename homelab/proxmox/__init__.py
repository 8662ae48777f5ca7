"""Proxmox VE, over its API: the only importer of proxmoxer."""

from homelab.proxmox.apply import Builder
from homelab.proxmox.client import Client
from homelab.proxmox.find import find

__all__ = ["Builder", "Client", "find"]
