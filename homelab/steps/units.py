"""systemd units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv
from homelab.model import ManagedResource, Pending, Step
from homelab.steps.drop_ins import drop_ins, overrides
from homelab.steps.files import File

_LINES = 15  # of a journal in an error
_LONGEST = 1800  # seconds of a restart: the limits of the unit are shorter
# The states in which a unit starts at boot, set by us or by a package's generator.
_ENABLED = ("enabled", "enabled-runtime", "generated", "static", "indirect", "alias")


@dataclass(frozen=True, eq=False)
class SystemdUnit(Step):
    """A unit that runs and starts at boot; restarted when a step that triggers it has changed.

    A drop-in by hand that overrides a setting of its files, which are among `triggered_by`, or that admits the unit to
    more than they do, is an error that names it.
    """

    unit: str
    triggered_by: Sequence[Step] = ()
    settle: float = 0.5  # seconds after the start at which it still has to run; 0 if systemd itself waits until it does
    part: str = ""

    @property
    def title(self) -> str:
        """See Step."""
        return f"unit {self.unit}"

    @property
    def effect(self) -> str:  # type: ignore[override] # read-only here
        """See Step."""
        return f"restarts {self.unit.removesuffix('.service')}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("unit", self.unit),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (
            argv("systemctl", "show", "--property=ActiveState,UnitFileState,NeedDaemonReload", self.unit),
            drop_ins(self.unit),
        )

    def _overrides(self, answer: Result) -> list[str]:
        files = [step for step in self.triggered_by if isinstance(step, File)]
        folder = f"/etc/systemd/system/{self.unit}"
        return overrides(
            answer.text, {file.path: file.content.decode() for file in files if file.path.startswith(folder)}
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        state = dict(line.partition("=")[::2] for line in answers[0].text.splitlines())
        if state.get("ActiveState") != "active":
            return Pending(f"is {state.get('ActiveState') or 'missing'}")
        if state.get("UnitFileState") not in _ENABLED:
            return Pending("does not start at boot", effect=self.effect)
        if found := self._overrides(answers[1]):
            return Pending("; ".join(found), effect=self.effect)
        outdated = state.get("NeedDaemonReload") == "yes"
        return Pending("its file has changed", effect=self.effect) if outdated else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError for an override, or with the end of the journal if the unit does not start."""
        if found := self._overrides(host.run(drop_ins(self.unit))):
            raise HomelabError(
                f"Cannot apply the unit {self.unit} on {host.name}: it is overridden by hand",
                "\n".join(found),
                f"Remove these settings from the files (`homelab ssh {host.name}` opens a shell), then run "
                "`homelab deploy` again.",
            )
        unit = quote(self.unit)
        # Each of these makes systemd reload all units, which takes a while, so only one of them runs. A unit of a
        # package is masked if the inventory did not want it for a while.
        self.restart(
            host,
            "\n".join(
                [
                    f"case $(systemctl is-enabled {unit} 2>/dev/null) in",
                    "    enabled) systemctl daemon-reload;;",
                    f"    masked*) systemctl unmask --quiet {unit} && systemctl enable --quiet {unit};;",
                    f"    *) systemctl enable --quiet {unit};;",
                    "esac",
                ]
            ),
        )

    def restart(self, host: Host, before: str = "true") -> None:
        """Restart the unit, after the shell text `before`. Raises as `apply` does."""
        unit, settle = quote(self.unit), f"sleep {self.settle} && " if self.settle else ""
        result = host.run(
            f"{before} && systemctl restart {unit} && {settle}systemctl is-active --quiet {unit}", timeout=_LONGEST
        )
        if not result.ok:
            raise not_active(self.unit, host, result.stderr.decode())

    def not_applied(self, host: Host, pending: Pending) -> HomelabError:
        """See Step. A unit that has ended since its start is named with the end of its journal."""
        is_ended = pending.reason.startswith("is ")
        return not_active(self.unit, host) if is_ended else super().not_applied(host, pending)


def not_active(unit: str, host: Host, output: str = "") -> HomelabError:
    """Return the error for a unit that ended, with the end of its journal, or of `output` if there is none."""
    return HomelabError(
        f"Cannot start {unit} on {host.name}: the unit is not active",
        "\n".join(journal_end(host, [unit]) or [f"  {line}" for line in output.splitlines()[-_LINES:]]),
        f"See `homelab logs {host.name} {unit}`; fix the cause, then run `homelab deploy` again.",
    )


def journal_end(host: Host, units: Sequence[str]) -> list[str]:
    """Return the last lines of the journal of units, indented."""
    only = [f"--unit={unit}" for unit in units]
    journal = host.run(argv("journalctl", "--no-pager", "--output=cat", f"--lines={_LINES}", *only))
    return [f"  {line}" for line in journal.text.splitlines()[-_LINES:]]
