"""Steps as shell text, for peers without a module for them: a check, and the command that applies the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from shlex import quote

from homelab.host import Result
from homelab.model import Step
from homelab.services.airflow_rows import MetadataRows
from homelab.steps import (
    Command,
    Database,
    FinishUpgrade,
    HealthCheck,
    Refuse,
    RevokedLogins,
    Role,
    ServerCertificate,
    Sql,
    UvInstall,
    Venv,
    WaitFor,
)


@dataclass(frozen=True)
class ShellStep:
    """Shell text that succeeds if the step is up to date, and shell text that applies it; one command runs both."""

    check: str
    apply: str
    stdin: str = ""


@dataclass
class Recorder:
    """A host that only records commands."""

    name: str = "peer"
    commands: list[tuple[str, bytes]] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.commands.append((command, stdin))
        return Result(command, 0)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch: no recorded step needs it."""
        raise NotImplementedError(commands)

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect: never needed."""


@singledispatch
def check_of(step: Step) -> str:
    """Return shell text that succeeds if the step is up to date."""
    raise SystemExit(f"Cannot check {type(step).__name__}: add it to benchmarks/peers/shell_steps.py.")


@check_of.register
def _command(step: Command) -> str:
    return " && ".join(f"( {probe} ) >/dev/null" for probe in step.probes())


@check_of.register
def _sql(step: Sql) -> str:
    return _prints(step, "t")


@check_of.register
def _database(step: Database) -> str:
    return _prints(step, f"UTF8 {step.owner} false")


@check_of.register
def _certificate(step: ServerCertificate) -> str:
    # Only homelab checks the names and the end of the validity.
    return f"grep -q {step.authority.description.issuer} {quote(step.path)}"


@check_of.register
def _role(step: Role) -> str:
    # Only homelab checks the password.
    return f"{step.probes()[0]} | grep -q '^SCRAM-SHA-256[$]'"


@check_of.register
def _venv(step: Venv) -> str:
    version = "$(/usr/bin/python3 --version | cut -d' ' -f2)"
    return (
        f"test -x {quote(step.path)}/bin/python && "
        f'[ "$(readlink {quote(step.path)})" = {quote(step.path)}-{version}-{step.digest} ]'
    )


@check_of.register
def _uv(step: UvInstall) -> str:
    record = Recorder()
    step.apply(record)
    digest = record.commands[0][0].rpartition("echo ")[2].split()[0]
    return f'[ "$({step.probes()[0]})" = {digest} ]'


@check_of.register
def _wait(step: WaitFor) -> str:
    return step.probe


@check_of.register
def _gate(step: HealthCheck) -> str:
    # Only homelab reads the answers.
    return " && ".join(f"( {probe} ) >/dev/null" for probe in step.commands)


@check_of.register
def _refuse(step: Refuse) -> str:
    return f'[ "$({step.probe})" != t ]'


@check_of.register
def _upgrade(step: FinishUpgrade) -> str:
    recorded, *done = step.probes()
    is_recorded = f'[ "$({recorded})" = {quote(step.upgrade.version)} ]'
    return " && ".join([is_recorded, *(f"( {probe} ) >/dev/null" for probe in done)])


@check_of.register
def _logins(step: RevokedLogins) -> str:
    return _prints(step, "")


@check_of.register
def _rows(step: MetadataRows) -> str:
    # Only homelab compares the rows.
    return f"( {step.probes()[0]} ) >/dev/null"


def _prints(step: Step, wanted: str) -> str:
    return f'[ "$({step.probes()[0]})" = {quote(wanted)} ]'


def shell_step(step: Step) -> ShellStep:
    """Return a step as shell text. Raises SystemExit for an unsupported kind of step."""
    check = f"{{ {check_of(step)}\n}} >/dev/null 2>&1"
    if step.is_wait:
        return ShellStep(check, f"until {check}; do sleep 0.5; done")
    if isinstance(step, Refuse):
        return ShellStep(check, "false")
    if isinstance(step, FinishUpgrade):
        path, version = step.upgrade.recorded, step.upgrade.version
        record = f"mkdir -p {quote(path.rpartition('/')[0])} && printf %s {quote(version)} >{quote(path)}"
        return ShellStep(check, " && ".join([*(f"( {each} )" for each in step.upgrade.after), record]))
    recorder = Recorder()
    step.apply(recorder)
    command, stdin = recorder.commands[-1]  # the earlier ones only read
    return ShellStep(check, command, stdin.decode())
