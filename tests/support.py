"""Shared helpers: a Host that is this machine, saved folders for kill tests, and a secret store with fixed values."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from homelab.host import Result, batch_script
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory, Secret, Service
from homelab.paths import bundled_path
from homelab.progress import Progress, SilentProgress
from homelab.runtime.session import Session
from homelab.services.registry import Registry
from homelab.steps.batching import NOW
from homelab.testing.contract import FixedSecrets


def owner_of_new_files() -> tuple[str, str]:
    """Return the names of this process's user and group, as `stat` prints them."""
    return pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name


@dataclass
class LocalHost:
    """A host that runs shell text on this machine and records it."""

    name: str = "local"
    ran: list[str] = field(default_factory=list)
    batches: int = 0
    reconnected: int = 0
    # Called before each command, so that a test can end the run there.
    before: Callable[[str], None] = lambda command: None

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        self.before(command)
        self.ran.append(command)
        done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, timeout=timeout, check=False)
        return Result(command, done.returncode, done.stdout, done.stderr)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        self.batches += 1
        script, parse = batch_script(commands)
        done = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, timeout=60, check=False)
        return parse(Result("sh -s", done.returncode, done.stdout, done.stderr))

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        self.reconnected += 1


class SavedFolders:
    """A copy of folders, which a test restores as often as it needs; the first folder exists."""

    def __init__(self, *folders: Path) -> None:
        root = Path(tempfile.mkdtemp(dir=folders[0].parent, prefix="saved-"))
        self._copies = {folder: root / str(number) for number, folder in enumerate(folders)}
        for folder, copy in self._copies.items():
            if folder.exists():
                shutil.copytree(folder, copy, symlinks=True)

    def restore(self) -> None:
        """Restore the folders."""
        for folder, copy in self._copies.items():
            shutil.rmtree(folder, ignore_errors=True)
            if copy.exists():
                shutil.copytree(copy, folder, symlinks=True)


@dataclass
class _SavingHost(LocalHost):
    """A host that saves folders before each command, and between the steps of a batch."""

    folders: Sequence[Path] = ()
    saved: list[SavedFolders] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        before = SavedFolders(*self.folders)
        self.saved.append(before)
        texts = command.split(NOW)  # the first comes before the first step, the last after the last step
        for done in range(2, len(texts) - 1):
            super().run(f"{NOW.join(texts[:done])}exit 9{NOW.join(texts[done:])}", stdin=stdin, timeout=timeout)
            self.saved.append(SavedFolders(*self.folders))
            before.restore()
        return super().run(command, stdin=stdin, timeout=timeout)


def killed_before_each_command(run: Callable[[LocalHost], object], *folders: Path) -> Iterator[int]:
    """Restore the folders to each state in which a kill before a command of the run leaves them, and to its end.

    Yields the number of commands done by then. The run itself is made only once.
    """
    host = _SavingHost(folders=folders)
    run(host)
    for done, each in enumerate([*host.saved, SavedFolders(*folders)]):
        each.restore()
        yield done


def with_service(folder: Path, name: str, service: type[Service], overlay: str, *overlays: Path) -> Inventory:
    """Return the shipped inventory with further overlays, the text of one, and a service of the tests."""
    registry = Registry()
    registry.add(name, service)
    last = folder / f"{name}.yaml"
    last.write_text(overlay)
    return load([bundled_path("inventory.yaml"), *overlays, last], registry=registry)


class NoHost:
    """A connection to a container that runs nothing: each command succeeds without output."""

    name = "no host"

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        return Result(command, 0)

    def __enter__(self) -> NoHost:
        return self

    def __exit__(self, *_: object) -> None:
        """See Connection."""

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch; every command fails."""
        return [Result(each, 1) for each in commands]


def make_session(
    inventory: Inventory,
    known_hosts: KnownHosts | None = None,
    progress: Progress | None = None,
    connector: Callable[..., object] = lambda container, *_: NoHost(),
) -> Session:
    """A session with fixed secrets; without a `connector`, containers answer over SSH at once."""
    return Session(
        inventory=inventory,
        secrets=FixedSecretStore(),
        known_hosts=known_hosts or KnownHosts.of(inventory.state_dir),
        progress=progress or SilentProgress(),
        connector=connector,  # type: ignore[arg-type]
    )


def recording(names: list[str]) -> Callable[..., NoHost]:
    """A connector that notes the names of the containers that were connected to."""

    def connect(container: Container, *_: object) -> NoHost:
        names.append(container.name)
        return NoHost()

    return connect


@dataclass(frozen=True)
class FixedSecretStore(FixedSecrets):
    """A secret store with fixed secrets and one public key, for renderings that must not change."""

    public: str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFixed homelab-test"

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """See SecretStore.key_pair."""
        return self.secret(name), self.public


def observability(**services: object) -> dict[str, dict[str, Any]]:
    """Return the containers of an overlay that adds the container of monitoring with these services."""
    return {"observability": {"vmid": 170, "ip": ".70", "cores": 1, "memory": 1024, "services": services}}


class _Capabilities(ctypes.Structure):
    _fields_: ClassVar = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    ]


@contextmanager
def respecting_modes() -> Iterator[None]:
    """Make the modes of files count for this thread, also if it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()  # version 3; this thread
    assert libc.capget(header, sets) == 0
    before = sets[0].effective
    sets[0].effective &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(header, sets) == 0
