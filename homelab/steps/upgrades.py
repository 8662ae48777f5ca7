"""Commands before and after the upgrade of a service, recorded in the container by the version of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.root_only import guarded

_TIMEOUT = 3600.0  # seconds for one command: a dump or a migration reads all data


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The upgrade of a service's data to a version: any text of one line, such as that of its packages.

    Each command is shell text for root; it must be safe to repeat. A failure ends the deploy of the container.
    """

    service: str
    version: str
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    done: Sequence[str] = ()

    def prepare(self) -> Step:
        """Return the step for `before`: it runs once, with the old version, before another one is installed.

        Place it before the steps that install the version. A first installation skips it.
        """
        return PrepareUpgrade(self)

    def finish(self, triggered_by: Sequence[Step] = ()) -> Step:
        """Return the step for `after`, which runs with the new version, on the first installation, too.

        It also runs when a probe of `done` fails, because the data has lost the effect. Place it before the steps that
        start the units.
        """
        return FinishUpgrade(self, triggered_by)

    @property
    def recorded(self) -> str:
        """The file with the version of the data."""
        return f"{remote_paths.STATE}/upgrades/{self.service}"

    @property
    def prepared(self) -> str:
        """The file with the version for which `before` has succeeded."""
        return f"{self.recorded}.prepared"

    def run(self, host: Host, commands: Sequence[str], action: str) -> None:
        """Run commands in order. Raises CommandFailed, which names the service, the command and its output."""
        for command in commands:
            check(host, command, f"{action} {self.service}", timeout=_TIMEOUT)


@dataclass(frozen=True, eq=False)
class PrepareUpgrade(Step):
    """The commands before an upgrade, while the old version is installed; see Upgrade."""

    upgrade: Upgrade

    @property
    def title(self) -> str:
        """See Step."""
        return f"preparation of the upgrade of {self.upgrade.service}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("made", self.upgrade.prepared),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("cat", self.upgrade.recorded), argv("cat", self.upgrade.prepared))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        recorded, prepared = (answer.text if answer.ok else "" for answer in answers)
        if recorded == self.upgrade.version:
            return Pending("an earlier upgrade was not finished") if prepared else None
        return Pending(f"{recorded} becomes {self.upgrade.version}") if recorded not in ("", prepared) else None

    def apply(self, host: Host) -> None:
        """See Step."""
        upgrade = self.upgrade
        recorded = host.run(argv("cat", upgrade.recorded)).text
        if recorded == upgrade.version:
            check(host, argv("rm", "-f", upgrade.prepared), f"prepare the upgrade of {upgrade.service}")
            return
        upgrade.run(host, upgrade.before, "prepare the upgrade of")
        _record(host, upgrade, upgrade.prepared, recorded)


@dataclass(frozen=True, eq=False)
class FinishUpgrade(Step):
    """The commands after an upgrade, before the units of the new version start; see Upgrade."""

    upgrade: Upgrade
    triggered_by: Sequence[Step] = ()

    @property
    def title(self) -> str:
        """See Step."""
        return f"upgrade of {self.upgrade.service}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("made", self.upgrade.recorded),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("cat", self.upgrade.recorded), *self.upgrade.done)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        recorded, *done = answers
        if not recorded.text:
            return Pending("not done yet")
        if recorded.text != self.upgrade.version:
            return Pending(f"{recorded.text} becomes {self.upgrade.version}")
        return None if all(answer.ok for answer in done) else Pending("its effect is missing")

    def apply(self, host: Host) -> None:
        """See Step."""
        upgrade = self.upgrade
        upgrade.run(host, upgrade.after, "upgrade")
        _record(host, upgrade, upgrade.recorded, upgrade.version)
        check(host, argv("rm", "-f", upgrade.prepared), f"record the upgrade of {upgrade.service}")


def _record(host: Host, upgrade: Upgrade, path: str, text: str) -> None:
    write = f"set -e; mkdir -p {quote(path.rpartition('/')[0])}; cat >{quote(path)}.new; mv -fT {quote(path)}.new "
    check(host, guarded(write + quote(path), path), f"record the upgrade of {upgrade.service}", stdin=text.encode())
