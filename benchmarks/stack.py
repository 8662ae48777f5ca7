"""A lab for benchmarks, with the whole stack, or with containers that only have SSH."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path

import yaml

from benchmarks.process import ProgramRun, run_program
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.lab import Lab, down, missing, network, up
from homelab.lab.lxc import Runtime
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import TerminalProgress
from homelab.runtime.convergence import steps_of
from homelab.secrets import FileSecretStore

LAB = Lab("bench", IPv4Network("10.99.2.128/26"), "hl-bnch", 18106, 8189)
_NAMES = ("postgres-data", "analytics-platform", "airflow-orchestration")
_FIRST = 131  # last part of the first container's address; the subnet has room for 20 stacks
_EXTRA = 140  # last part of the first further container's address; the subnet has room for 50


@dataclass(frozen=True)
class Stack:
    """A folder with an inventory that points at the lab."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def command(self) -> list[str]:
        """The words of the command line, without a verb."""
        words = [sys.executable, "-m", "homelab", "-q", "-i", str(self.files[0])]
        return words + [word for overlay in self.files[1:] for word in ("--overlay", str(overlay))]

    def homelab(self, *words: str) -> ProgramRun:
        """Run `homelab …` in its own process."""
        return run_program([*self.command, *words], self.folder)

    @cached_property
    def inventory(self) -> Inventory:
        """The inventory, as the command line reads it."""
        return load(list(self.files))

    @property
    def secret_store(self) -> FileSecretStore:
        """The secrets of the inventory."""
        return FileSecretStore(self.inventory.state_dir)

    @property
    def keys(self) -> Mapping[str, str]:
        """The host keys of all containers, by name."""
        pins = KnownHosts.of(self.inventory.state_dir).pins()
        return {name: pin.key for name, pin in pins.items() if pin.key}

    @property
    def known_hosts(self) -> str:
        """The host keys in OpenSSH's format."""
        return "".join(f"{c.address} {self.keys[c.name]}\n" for c in self.inventory.containers)

    def steps(self) -> dict[str, Sequence[Step]]:
        """Return all steps by container, as for a deploy."""
        names = [c.name for c in self.inventory.containers]
        return {
            c.name: steps_of(
                ServiceContext(
                    inventory=self.inventory,
                    container=c,
                    secret_store=self.secret_store,
                    host_keys=self.keys,
                    deploying=names,
                )
            )
            for c in self.inventory.containers
        }

    def recreate(self) -> None:
        """Replace all containers with new ones."""
        self.homelab("destroy", "--yes")
        self.homelab("up", "--yes")
        self.wait_for_boot()

    def stop(self) -> None:
        """Stop the containers without removing them."""
        for container in self.inventory.containers:
            Runtime(LAB).kill(container.vmid)

    def wait_for_boot(self) -> None:
        """Wait until every container has finished its boot."""
        for container in self.inventory.containers:
            self.on(container.name, "systemctl is-system-running --wait >/dev/null || true")

    def on(self, name: str, command: str) -> str:
        """Run shell text in a container and return its output."""
        return self.homelab("ssh", name, "--", command).output.strip()


@contextmanager
def lab() -> Iterator[None]:
    """Run the lab during the block. Raises SystemExit if this machine lacks a prerequisite."""
    if missing_requirements := missing():
        raise SystemExit("Cannot run a lab on this machine: " + "; ".join(missing_requirements))
    progress = TerminalProgress()
    network.guard()
    down(LAB, progress)  # from a killed run
    try:
        up(LAB, progress)
        yield
    finally:
        down(LAB, progress)


def whole_stack(folder: Path, number: int = 0) -> Stack:
    """Return the shipped inventory: three containers with all services; each number has its own vmids and addresses."""
    shutil.copy(bundled_path("inventory.yaml"), folder / "inventory.yaml")
    containers = {
        name: {"vmid": 200 + last, "ip": f".{last}"} for last, name in enumerate(_NAMES, _FIRST + number * len(_NAMES))
    }
    return _written(folder, {"lab": f"{LAB.name}-{number}", "containers": containers})


def bare_containers(folder: Path, count: int) -> Stack:
    """Return an inventory of containers without services."""
    (folder / "inventory.yaml").write_text(
        yaml.safe_dump(
            {
                "lab": "x",
                "proxmox": {"host": "x", "token_id": "homelab@pve!x"},
                "network": {"subnet": str(LAB.subnet), "gateway": str(LAB.gateway), "bridge": "x"},
                "containers": {
                    f"host-{number:02}": {
                        "vmid": 300 + number,
                        "ip": f".{_EXTRA + number}",
                        "cores": 1,
                        "memory": 256,
                        "disk": 2,
                    }
                    for number in range(count)
                },
            }
        )
    )
    return _written(folder, {})


def _written(folder: Path, overlay: Mapping[str, object]) -> Stack:
    (folder / "overlay.yaml").write_text(yaml.safe_dump(dict(overlay)))
    return Stack(folder, (folder / "inventory.yaml", LAB.overlay, folder / "overlay.yaml"))
