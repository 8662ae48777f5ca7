"""An inventory with a given number of containers, and the command line on it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.node import SECRET, Node
from benchmarks.process import ProgramRun, run_program
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
        """The inventory, parsed again at each access."""
        return load(list(self.files))

    def homelab(self, *arguments: str) -> ProgramRun:
        """Run the command line in its own process."""
        inventory, overlay = map(str, self.files)
        return run_program(
            [sys.executable, "-m", "homelab", "-q", "-i", inventory, "--overlay", overlay, *arguments], self.folder
        )


def site(folder: Path, node: Node, count: int) -> Site:
    """Return the shipped inventory on this node with `count` containers, of which three have services."""
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
