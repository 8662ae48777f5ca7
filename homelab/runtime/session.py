"""The session of one command: an inventory with its secrets, host keys and progress display."""

from __future__ import annotations

from dataclasses import dataclass, replace

from homelab.model import Inventory, Secret, SecretStore
from homelab.progress import Progress
from homelab.secrets import FileSecretStore
from homelab.trust import KnownHosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An inventory with its secrets, host keys and progress display."""

    inventory: Inventory
    secrets: SecretStore
    known_hosts: KnownHosts
    progress: Progress

    @classmethod
    def open(cls, inventory: Inventory, progress: Progress) -> Session:
        """Return a session on the secrets and host keys in the inventory's state folder."""
        folder = inventory.state_dir
        return cls(
            inventory=inventory, secrets=FileSecretStore(folder), known_hosts=KnownHosts.of(folder), progress=progress
        )

    def on(self, inventory: Inventory) -> Session:
        """Return the same session on another form of its inventory, such as one with all vmids resolved."""
        return replace(self, inventory=inventory)

    @property
    def operator_key(self) -> Secret:
        """The private SSH key that homelab logs in with."""
        return self.secrets.key_pair("operator")[0]
