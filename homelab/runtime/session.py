"""The session of one command: an inventory with its secrets, host keys and progress display."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from homelab.host import LoginRefused
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory, SecretStore, Stage
from homelab.progress import Progress
from homelab.runtime.connections import Connection, Connector, connect_ssh
from homelab.runtime.container_addresses import located


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An inventory with its secrets, host keys and progress display; `connector` reaches the containers."""

    inventory: Inventory
    secrets: SecretStore
    known_hosts: KnownHosts
    progress: Progress
    connector: Connector = connect_ssh

    @classmethod
    def open(cls, inventory: Inventory, progress: Progress) -> Session:
        """Return a session on the secrets and host keys in the inventory's state folder."""
        from homelab.secrets import FileSecretStore

        folder = inventory.state_dir
        return cls(
            inventory=inventory, secrets=FileSecretStore(folder), known_hosts=KnownHosts.of(folder), progress=progress
        )

    def on(self, inventory: Inventory) -> Session:
        """Return this session on another form of its inventory, such as one with all vmids resolved."""
        return replace(self, inventory=inventory)

    def preview(self) -> Session:
        """Return this session for a preview of changes: it saves no new secret, key, certificate or host key."""
        return replace(self, secrets=self.secrets.preview(), known_hosts=self.known_hosts.preview())

    def require_intact_state(self) -> None:
        """Raise InputError if a file of the state folder is damaged, before work that needs all of them."""
        self.secrets.names()
        self.secrets.known_authority()
        self.known_hosts.pins()
        for name in ("operator", "airflow"):
            if self.secrets.has_key(name):
                self.secrets.key_pair(name)

    def connect(
        self, container: Container, deadline: float = 10.0, known_hosts: KnownHosts | None = None
    ) -> Connection:
        """Connect to a container within `deadline` seconds; `known_hosts` replaces the lab's. Raises HomelabError."""
        container = located(self.inventory, container, deadline)
        key, _ = self.secrets.key_pair("operator")
        try:
            return self.connector(container, key, known_hosts or self.known_hosts, deadline)
        except LoginRefused as error:
            raise self._unknown_key(container, error) from error

    def _unknown_key(self, container: Container, error: LoginRefused) -> LoginRefused:
        path = self.secrets.key_path("operator")
        if not path.exists():  # a preview keeps it in memory
            return LoginRefused(
                error.brief,
                f"{container.address} does not accept a new key, and {path} does not exist.",
                f"If you have a copy of {path.parent}, copy it back. If not, run `homelab deploy`: it makes a key and "
                "prints the command that adds it.",
            )
        made = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        return LoginRefused(
            error.brief,
            f"{container.address} does not accept the key {path}, which was made at {made:%Y-%m-%d %H:%M}. Another key "
            "has created the container.",
            f"If you have a copy of {path.parent} from before, copy it back. If not, on node "
            f"{container.node or 'of the container'}, as root:\n"
            f"  echo '{self.secrets.key_pair('operator')[1].strip()}' | "
            f"pct exec {container.vmid} -- tee -a /root/.ssh/authorized_keys",
        )

    def connect_to(self, service: str) -> Connection:
        """Connect to the container that runs a service. Raises HomelabError."""
        return self.connect(self.inventory.container_with(service))

    def connect_to_stage(self, stage: Stage) -> Connection:
        """Connect to the container that runs a stage of the pipelines. Raises HomelabError."""
        return self.connect(self.inventory.container_of(stage))
