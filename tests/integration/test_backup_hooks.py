"""Backup hooks of services around backups and restores on an in-process node: order, failures and repetitions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from homelab.commands import backup, restore
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import BackupHooks, Container, Inventory, Service, ServiceContext, Step
from homelab.runtime.session import Session
from homelab.services.node_exporter import LAST_BACKUP, NodeExporter
from tests.integration.test_proxmox_up import Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import NoHost, make_session

ONE = "postgres-data"
HOOKS = BackupHooks(before=("hook-freeze", "hook-dump"), after=("hook-thaw",), restored=("hook-load",))


@dataclass(frozen=True, kw_only=True)
class Hooked(Service):
    """A service with hooks."""

    hooks: BackupHooks = HOOKS

    def backup_hooks(self) -> BackupHooks:
        """See Service."""
        return self.hooks

    def steps(self, context: ServiceContext) -> tuple[Step, ...]:
        """See Service."""
        return ()


@dataclass
class Recorder(NoHost):
    """A container that records the hooks, and keeps the record of its restore."""

    site: Site
    events: list[str] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)
    failing: str = ""
    restored: bytes = b""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        if "/restored" in command:
            self.restored = stdin or self.restored
            return Result(command, 0, self.restored)
        if LAST_BACKUP in command:
            self.recorded += [self.backups]
            return Result(command, 1 if self.failing == "record" else 0)
        hook = next(word for word in ("hook-freeze", "hook-dump", "hook-thaw", "hook-load") if word in command)
        self.events.append(f"{hook} with {self.backups} backups")
        return Result(command, 1, b"", b"the disk is full") if hook == self.failing else Result(command, 0)

    @property
    def backups(self) -> int:
        """The number of finished backups."""
        return len([task for task in self.site.pve.tasklog if task["type"] == "vzdump" and task.get("exitstatus")])


@dataclass
class Verbs:
    """The verbs on one container that has the service."""

    site: Site
    host: Recorder

    def session(self, hooks: BackupHooks = HOOKS) -> Session:
        """A session on the inventory with the service."""
        inventory = with_service(self.site.inventory, Hooked(hooks=hooks))
        return make_session(inventory, self.site.known_hosts, connector=lambda container, *_: self.host)

    def back_up(self) -> backup.BackupOutcome:
        """Run `homelab backup postgres-data`."""
        return backup.backup(self.session(), confirm=lambda _: True, names=[ONE])

    def restore(self, hooks: BackupHooks = HOOKS) -> str:
        """Run `homelab restore postgres-data`."""
        return str(restore.restore(self.session(hooks), ONE, confirm=lambda _: True))

    def events(self) -> list[str]:
        """Return the new events."""
        found, self.host.events = self.host.events, []
        return found


def with_service(inventory: Inventory, service: Service) -> Inventory:
    def changed(container: Container) -> Container:
        services = {"hooked": service, "node_exporter": NodeExporter()}
        return replace(container, services=services) if container.name == ONE else container

    return replace(inventory, containers=tuple(map(changed, inventory.containers)))


@pytest.fixture
def verbs(site: Site) -> Verbs:
    site.up(ONE)
    return Verbs(site, Recorder(site))


def test_hooks_run_around_the_backup_and_once_after_a_restore(verbs: Verbs) -> None:
    verbs.back_up()
    assert verbs.events() == ["hook-freeze with 0 backups", "hook-dump with 0 backups", "hook-thaw with 1 backups"]
    verbs.site.destroy(ONE)
    verbs.restore()
    assert verbs.events() == ["hook-load with 1 backups"]
    assert "Nothing to do" in verbs.restore()
    assert verbs.events() == []


def test_failed_hook_prevents_the_backup_and_names_service_command_and_output(verbs: Verbs) -> None:
    verbs.host.failing = "hook-dump"
    with pytest.raises(HomelabError, match=r"Cannot prepare the backup of hooked on .*: the command failed") as caught:
        verbs.back_up()
    assert "`hook-dump` ended with status 1\n  the disk is full" in caught.value.details
    assert "homelab deploy --limit postgres-data" in caught.value.resolution
    assert verbs.events() == ["hook-freeze with 0 backups", "hook-dump with 0 backups", "hook-thaw with 0 backups"]
    verbs.host.failing = ""
    verbs.back_up()
    assert verbs.events()[-1] == "hook-thaw with 1 backups"


def test_failed_hook_after_the_backup_reports_that_the_backup_exists(verbs: Verbs) -> None:
    verbs.host.failing = "hook-thaw"
    with pytest.raises(HomelabError, match="Cannot finish the backup of hooked") as caught:
        verbs.back_up()
    assert "The backup itself exists: `homelab backup --list postgres-data`." in caught.value.details
    assert verbs.host.backups == 1


def test_failed_backup_runs_the_hooks_after_it(verbs: Verbs) -> None:
    verbs.site.pve.dump_fails = "out of luck"
    with pytest.raises(HomelabError, match="Cannot back up postgres-data"):
        verbs.back_up()
    assert verbs.events()[-1].startswith("hook-thaw")


def test_failed_hook_after_a_restore_runs_again_with_the_next_command(verbs: Verbs) -> None:
    verbs.back_up()
    verbs.site.destroy(ONE)
    verbs.events()
    verbs.host.failing = "hook-load"
    with pytest.raises(HomelabError, match="Cannot restore the data of hooked"):
        verbs.restore()
    verbs.host.failing = ""
    verbs.restore()
    assert verbs.events() == ["hook-load with 1 backups"] * 2


def test_hook_of_a_service_that_came_after_the_restore_does_not_run(verbs: Verbs) -> None:
    verbs.back_up()
    verbs.site.destroy(ONE)
    verbs.restore(BackupHooks())
    verbs.events()
    verbs.restore()
    assert verbs.events() == []


def test_time_of_each_finished_backup_is_recorded_in_the_container(verbs: Verbs) -> None:
    verbs.back_up()
    assert verbs.host.recorded == [1]
    verbs.site.pve.dump_fails = "out of luck"
    with pytest.raises(HomelabError):
        verbs.back_up()
    verbs.site.pve.dump_fails = ""
    verbs.host.failing = "record"
    verbs.back_up()
    assert verbs.host.recorded == [1, 3], "the failed one is not recorded; a failed record does not fail the backup"


def test_stopped_container_is_backed_up_without_hooks(verbs: Verbs) -> None:
    ct = verbs.site.pve.ct(167)
    ct.status = "stopped"
    verbs.back_up()
    assert (verbs.events(), verbs.host.backups, verbs.host.recorded) == ([], 1, [])
