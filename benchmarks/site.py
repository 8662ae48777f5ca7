"""An inventory of so many containers, and the command line on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmarks.node import SECRET, Node
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import shipped

ROOT = Path(__file__).resolve().parent.parent
_GUARD = ROOT / "tests" / "guard"  # refuses connections to anything but loopback and the lab's subnet


@dataclass(frozen=True)
class Site:
    """A folder with an inventory that points at a node."""

    folder: Path
    files: tuple[Path, Path]

    @property
    def inventory(self) -> Inventory:
        """The inventory, read anew."""
        return load(list(self.files))

    def homelab(self, *arguments: str) -> tuple[float, str]:
        """Run the command line in a process of its own: seconds from start to end, and what it printed."""
        inventory, overlay = map(str, self.files)
        return timed([sys.executable, "-m", "homelab", "-q", "-i", inventory, "--overlay", overlay, *arguments],
                     self.folder)


def site(folder: Path, node: Node, count: int) -> Site:
    """The shipped inventory with so many containers, the first three with their services, on this node."""
    inventory, overlay, token = folder / "inventory.yaml", folder / "overlay.yaml", folder / "token"
    inventory.write_text(shipped("inventory.yaml").read_text())
    token.write_text(SECRET)
    token.chmod(0o600)
    more = {f"extra-{number:03}": {"vmid": 1000 + number, "ip": f".{100 + number}", "cores": 1, "memory": 512}
            for number in range(1, count - 2)}
    overlay.write_text(yaml.safe_dump({
        "proxmox": {"host": "127.0.0.1", "port": node.port, "fingerprint": node.fingerprint,
                    "token_file": str(token)},
        "network": {"subnet": "10.99.2.0/24"}, "containers": more}))
    return Site(folder, (inventory, overlay))


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a program that has to succeed: seconds from start to end, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env=environment())
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def environment() -> dict[str, str]:
    """What programs that are measured find in their environment: the guard, and no settings of the caller's.

    What Python has compiled is kept, as it is where a program is installed, but not in this checkout.
    """
    path = os.pathsep.join(filter(None, [str(_GUARD), str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("HOMELAB", "ANSIBLE")) and name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": _compiled().name}


@cache
def _compiled() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="homelab-compiled-")
