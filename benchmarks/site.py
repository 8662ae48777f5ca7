"""An inventory of so many containers, and the command line on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.node import SECRET, Node
from benchmarks.process import Ran, ran
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path


@dataclass(frozen=True)
class Site:
    """A folder with an inventory that points at a node."""

    folder: Path
    files: tuple[Path, Path]

    @property
    def inventory(self) -> Inventory:
        """The inventory, read anew."""
        return load(list(self.files))

    def homelab(self, *arguments: str) -> Ran:
        """Run the command line in a process of its own."""
        inventory, overlay = map(str, self.files)
        return ran(
            [sys.executable, "-m", "homelab", "-q", "-i", inventory, "--overlay", overlay, *arguments], self.folder
        )


def site(folder: Path, node: Node, count: int) -> Site:
    """The shipped inventory with so many containers, the first three with their services, on this node."""
    inventory, overlay, token = folder / "inventory.yaml", folder / "overlay.yaml", folder / "token"
    inventory.write_text(bundled_path("inventory.yaml").read_text())
    token.write_text(SECRET)
    token.chmod(0o600)
    more = {
        f"extra-{number:03}": {"vmid": 1000 + number, "ip": f".{100 + number}", "cores": 1, "memory": 512}
        for number in range(1, count - 2)
    }
    overlay.write_text(
        yaml.safe_dump(
            {
                "proxmox": {
                    "host": "127.0.0.1",
                    "port": node.port,
                    "fingerprint": node.fingerprint,
                    "token_file": str(token),
                },
                "network": {"subnet": "10.99.2.0/24"},
                "containers": more,
            }
        )
    )
    return Site(folder, (inventory, overlay))
