"""homelab: one inventory.yaml becomes a running data stack on Proxmox VE."""

__version__ = "0.1.0"
