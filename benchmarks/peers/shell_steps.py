"""A step as shell text, for peers that have no module for it: what is asked, and what is run where the answer is no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from shlex import quote

from homelab.host import Result
from homelab.model import Step
from homelab.steps import Command, Database, HealthCheck, Role, Sql, UvInstall, Venv, WaitFor


@dataclass(frozen=True)
class Asked:
    """Shell text that succeeds where it is so, and what makes it so, with its standard input. Nothing is checked in
    the peer itself: one command over there does both.
    """

    met: str
    make: str
    stdin: str = ""


@dataclass
class Recorder:
    """A host that only writes down what a step would run on it."""

    name: str = "peer"
    said: list[tuple[str, bytes]] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.said.append((command, stdin))
        return Result(command, 0)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch. No step that is asked here looks at anything while it acts."""
        raise NotImplementedError(commands)

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect: it is never away."""


@singledispatch
def met(step: Step) -> str:
    """Shell text that succeeds where a step has nothing to do."""
    raise SystemExit(f"The benchmark has no words for {type(step).__name__}: say it in benchmarks/peers/.")


@met.register
def _command(step: Command) -> str:
    return " && ".join(f"( {probe} ) >/dev/null" for probe in step.probes())


@met.register
def _sql(step: Sql) -> str:
    return _answers(step, "t")


@met.register
def _database(step: Database) -> str:
    return _answers(step, f"{step.owner} false")


@met.register
def _role(step: Role) -> str:
    # homelab also checks that the password is the one that is wanted; a peer gets away without.
    return f"{step.probes()[0]} | grep -q '^SCRAM-SHA-256[$]'"


@met.register
def _venv(step: Venv) -> str:
    version = "$(/usr/bin/python3 --version | cut -d' ' -f2)"
    return (
        f"test -x {quote(step.path)}/bin/python && "
        f'[ "$(readlink {quote(step.path)})" = {quote(step.path)}-{version}-{step.digest} ]'
    )


@met.register
def _uv(step: UvInstall) -> str:
    record = Recorder()
    step.apply(record)
    digest = record.said[0][0].rpartition("echo ")[2].split()[0]
    return f'[ "$({step.probes()[0]})" = {digest} ]'


@met.register
def _wait(step: WaitFor) -> str:
    return step.check


@met.register
def _gate(step: HealthCheck) -> str:
    # homelab also reads the answers; a peer is content with getting some.
    return " && ".join(f"( {probe} ) >/dev/null" for probe in step.asks)


def _answers(step: Step, wanted: str) -> str:
    return f'[ "$({step.probes()[0]})" = {quote(wanted)} ]'


def asked(step: Step) -> Asked:
    """The step as shell text. Raises SystemExit for a kind of step that has none."""
    question = f"{{ {met(step)}\n}} >/dev/null 2>&1"
    if step.is_wait:
        return Asked(question, f"until {question}; do sleep 0.5; done")
    record = Recorder()
    step.apply(record)
    ((command, stdin),) = record.said
    return Asked(question, command, stdin.decode())
