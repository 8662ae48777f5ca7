"""A lab of the benchmarks' own, with the whole stack in it, or with containers that hold nothing but SSH."""

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

from benchmarks.process import Ran, ran
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.lab import Lab, down, missing, network, up
from homelab.lab.containers import Runtime
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import TerminalProgress
from homelab.runtime.convergence import steps_of
from homelab.secrets import FileSecretStore

LAB = Lab("bench", IPv4Network("10.99.2.128/26"), "hl-bnch", 18106, 8189)
_NAMES = ("postgres-data", "analytics-platform", "airflow-orchestration")
_FIRST = 131  # the last part of the first container's address; there is room for 20 stacks
_EXTRA = 140  # the last part of the first other container's address; there is room for 50


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

    def homelab(self, *words: str) -> Ran:
        """Run `homelab …` as people do, in a process of its own."""
        return ran([*self.command, *words], self.folder)

    @cached_property
    def inventory(self) -> Inventory:
        """The inventory, as the command line reads it."""
        return load(list(self.files))

    @property
    def secret_store(self) -> FileSecretStore:
        """Its secrets."""
        return FileSecretStore(self.inventory.state_dir)

    @property
    def keys(self) -> Mapping[str, str]:
        """The host keys of all containers, by name."""
        pins = KnownHosts.of(self.inventory.state_dir).pins()
        return {name: pin.key for name, pin in pins.items() if pin.key}

    @property
    def known_hosts(self) -> str:
        """The same, as OpenSSH reads them."""
        return "".join(f"{c.address} {self.keys[c.name]}\n" for c in self.inventory.containers)

    def steps(self) -> dict[str, Sequence[Step]]:
        """All steps by container, as a deploy would take them."""
        everyone = [c.name for c in self.inventory.containers]
        return {
            c.name: steps_of(
                ServiceContext(
                    inventory=self.inventory,
                    container=c,
                    secret_store=self.secret_store,
                    host_keys=self.keys,
                    deploying=everyone,
                )
            )
            for c in self.inventory.containers
        }

    def anew(self) -> None:
        """Containers with nothing in them; those that were there are gone."""
        self.homelab("destroy", "--yes")
        self.homelab("up", "--yes")
        self.ssh_answers()

    def off(self) -> None:
        """Stop its containers, and keep them."""
        for container in self.inventory.containers:
            Runtime(LAB).kill(container.vmid)

    def ssh_answers(self) -> None:
        """Wait until every container has shown its key, and finished its boot."""
        for container in self.inventory.containers:
            self.on(container.name, "systemctl is-system-running --wait >/dev/null || true")

    def on(self, name: str, command: str) -> str:
        """What shell text prints in a container."""
        return self.homelab("ssh", name, "--", command).said.strip()


@contextmanager
def lab() -> Iterator[None]:
    """The lab, until the end of the block, however that comes. Raises SystemExit where there can be none."""
    if lacking := missing():
        raise SystemExit("This machine cannot run a lab: " + "; ".join(lacking))
    progress = TerminalProgress()
    network.guard()
    down(LAB, progress)  # what a killed run may have left
    try:
        up(LAB, progress)
        yield
    finally:
        down(LAB, progress)


def whole(folder: Path, number: int = 0) -> Stack:
    """The shipped inventory: three containers with all services, beside those of other numbers."""
    shutil.copy(bundled_path("inventory.yaml"), folder / "inventory.yaml")
    places = {
        name: {"vmid": 200 + last, "ip": f".{last}"} for last, name in enumerate(_NAMES, _FIRST + number * len(_NAMES))
    }
    return _written(folder, {"lab": f"{LAB.name}-{number}", "containers": places})


def many(folder: Path, count: int) -> Stack:
    """So many containers without a service."""
    (folder / "inventory.yaml").write_text(
        yaml.safe_dump(
            {
                "lab": "x",
                "proxmox": {"host": "x", "token_id": "homelab@pve!x"},
                "network": {"subnet": str(LAB.subnet), "gateway": str(LAB.gateway), "bridge": "x"},
                "pipeline": {},
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
    return _written(folder, {"containers": {"postgres-data": None}})  # the lab's overlay says its version


def _written(folder: Path, overlay: Mapping[str, object]) -> Stack:
    (folder / "overlay.yaml").write_text(yaml.safe_dump(dict(overlay)))
    return Stack(folder, (folder / "inventory.yaml", LAB.overlay, folder / "overlay.yaml"))
