"""`homelab trust`: pin a container's SSH host key anew, after it was changed on purpose."""

from __future__ import annotations

import re

from homelab.errors import HomelabError, InputError
from homelab.model import Inventory
from homelab.plan import chosen
from homelab.proxmox import Client, find, hostkeys
from homelab.proxmox.vmids import settled
from homelab.trust import KnownHosts, Pin


def trust(inventory: Inventory, name: str, fingerprint: str | None = None, *, known_hosts: KnownHosts) -> Pin:
    """Pin this fingerprint, `SHA256:…`, or without one that of the create's log on the node. Raises HomelabError."""
    (container,) = chosen(inventory, [name])
    if fingerprint is None:
        client = Client(inventory.endpoint)
        inventory = settled(client, inventory)
        (container,) = chosen(inventory, [name])
        there = find(client, inventory).get(container.vmid)
        if there is None or not there.belongs_to(container):
            raise HomelabError(f"{name} does not exist", f"There is no container of ours with vmid {container.vmid}.",
                               "Run `homelab up` first.")
        fingerprint = hostkeys.recover(client, there, name)
    elif not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", fingerprint):
        raise InputError("That is not a host key's fingerprint", f"{fingerprint!r} is not SHA256:… with 43 characters.",
                         f"On the node: `pct exec {container.vmid} -- ssh-keygen -lf "
                         "/etc/ssh/ssh_host_ed25519_key.pub` shows it.")
    pin = Pin(fingerprint)
    known_hosts.pin(name, pin)
    return pin
