"""A lab that a test file has for itself, fresh and gone again whatever happened; and what the file does in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from homelab.commands.deploy import connect
from homelab.commands.up import up as make_up
from homelab.errors import HomelabError
from homelab.host import check
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.lab import Lab, down, missing, up
from homelab.model import Inventory, Step
from homelab.progress import SilentProgress
from homelab.runtime.container_changes import Outcome
from homelab.secrets import FileSecretStore
from homelab.ssh import Ssh
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes

QUIET = SilentProgress()


def in_a_lab(seconds: float = 300) -> list[pytest.MarkDecorator]:
    """What a file marks its tests with: they need a lab, and none may take longer than that."""
    return [
        pytest.mark.lab,
        pytest.mark.timeout(seconds),
        pytest.mark.skipif(bool(missing()), reason="this machine cannot run a lab: " + "; ".join(missing())),
    ]


@contextmanager
def fresh(lab: Lab) -> Iterator[None]:
    """A lab that is there as long as the block, with nothing in it that a killed run may have left."""
    down(lab, QUIET)
    try:
        up(lab, QUIET)
        yield
    finally:
        down(lab, QUIET)


@dataclass(frozen=True)
class LabFixture:
    """The containers of an inventory in a lab; where none is named, the first one is meant."""

    inventory: Inventory

    @property
    def secret_store(self) -> FileSecretStore:
        """The inventory's secrets."""
        return FileSecretStore(self.inventory.state_dir)

    @property
    def known_hosts(self) -> KnownHosts:
        """The pinned host keys."""
        return KnownHosts.of(self.inventory.state_dir)

    def up(self, *limit: str) -> Outcome:
        """`homelab up --yes`, and what it did."""
        return make_up(
            self.inventory,
            secret_store=self.secret_store,
            known_hosts=self.known_hosts,
            progress=QUIET,
            confirm=lambda plan: True,
            limit=limit,
        )

    def connect(self, name: str = "") -> Ssh:
        """A connection of its own, to a container that shows the key that is pinned for it."""
        container = next(each for each in self.inventory.containers if name in ("", each.name))
        return connect(container, self.secret_store.key_pair("operator")[0], self.known_hosts, 60)

    def run(self, command: str, name: str = "") -> str:
        """What a command prints; it has to succeed."""
        with self.connect(name) as host:
            return check(host, command, f"run `{command}`").text

    def deploy(self, steps: Sequence[Step]) -> list[str]:
        """Converge; what was done."""
        with self.connect() as host:
            return [str(change) for change in converge(host, steps, QUIET)]

    def fails(self, steps: Sequence[Step]) -> HomelabError:
        """The error in which a deploy ends: with what happened, why, and what to do."""
        with pytest.raises(HomelabError) as caught:
            self.deploy(steps)
        error = caught.value
        assert error.brief
        assert "may be half done" in error.details
        assert "run `homelab deploy` again" in error.resolution, str(error)
        return error

    def pending(self, steps: Sequence[Step]) -> list[str]:
        """What a run would do."""
        with self.connect() as host:
            return [str(change) for change in pending_changes(host, steps)]


@contextmanager
def lab_with(lab: Lab, folder: Path, inventory: str, *overlays: str) -> Iterator[LabFixture]:
    """A fresh lab as long as the block, for an inventory and what is to be laid over it; it has no containers yet."""
    first, *more = (folder / f"{number}.yaml" for number in range(1 + len(overlays)))
    for path, text in zip((first, *more), (inventory, *overlays), strict=True):
        path.write_text(text)
    with fresh(lab):
        yield LabFixture(replace(load([first, lab.overlay, *more]), state_dir=folder / "state"))
