"""The contract of a service in a real container: killed anywhere, repeated, stopped, and removed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from homelab.host import Host, Result, argv, check
from homelab.inventory import load
from homelab.model import Service, ServiceContext, Step
from homelab.progress import SilentProgress
from homelab.runtime.convergence import steps_of
from homelab.runtime.session import Session
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes

_QUIET = SilentProgress()


class _Killed(BaseException):
    """The simulated end of homelab's process."""


class _KilledHost:
    """A host on which homelab is killed before a command (an even point), or right after it (an odd point)."""

    def __init__(self, host: Host, point: int) -> None:
        self.name, self.batch, self.reconnect = host.name, host.batch, host.reconnect
        self._run, self._point = host.run, point

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        if self._point == 0:
            raise _Killed
        result = self._run(command, stdin=stdin, timeout=timeout)
        if self._point == 1:
            raise _Killed
        self._point -= 2
        return result


def check_in_container(
    paths: Sequence[Path], container: str, service: str, report: Callable[[str], None] = print
) -> None:
    """Deploy and remove a service in a container repeatedly. Raises AssertionError if it breaks the contract.

    `paths` are the inventory and its overlays, the lab's among them; the container has to exist. Its other services are
    removed, so never name one with data that you need.
    """
    session = Session.open(load(paths), _QUIET)
    found = next(each for each in session.inventory.containers if each.name == container)
    keys = session.known_hosts.key_lines()
    context = ServiceContext(inventory=session.inventory, container=found, secret_store=session.secrets, host_keys=keys)
    steps = steps_of(context)
    with session.connect(found, 60) as host:
        base = [step for step in steps if step not in _own_steps(found.services[service], context, steps)]
        converge(host, base, _QUIET)
        points = _kill_everywhere(host, base, steps)
        report(f"{service}: killed at {points} points, and finished by the next run each time")
        _stop_each_unit(host, found.services[service], steps)
        _run_backup_hooks(host, found.services[service])
        converge(host, base, _QUIET)
        _require(not _healthy(host, found.services[service]), "it is healthy after it was removed")


def _own_steps(service: Service, context: ServiceContext, steps: Sequence[Step]) -> list[Step]:
    titles = {step.title for step in service.steps(context)}
    return [step for step in steps if step.title in titles or step.title.endswith(" is healthy")]


def _kill_everywhere(host: Host, base: Sequence[Step], steps: Sequence[Step]) -> int:
    """Kill a first deploy at each point; return the number of points."""
    point = 0
    while True:
        try:
            converge(_KilledHost(host, point), steps, _QUIET)
        except _Killed:
            point += 1
        else:
            return point
        converge(host, steps, _QUIET)
        left = [str(change) for change in pending_changes(host, steps)]
        _require(not left, f"a second run after a kill at point {point} is not quiet: {left}")
        converge(host, base, _QUIET)


def _stop_each_unit(host: Host, service: Service, steps: Sequence[Step]) -> None:
    _require(_healthy(host, service), "it is not healthy after its deploy")
    for unit in service.units():
        check(host, argv("systemctl", "stop", unit), f"stop {unit}")
        _require(not _healthy(host, service), f"it is healthy without {unit}")
        converge(host, steps, _QUIET)
        _require(_healthy(host, service), f"a deploy does not start {unit} again")


def _run_backup_hooks(host: Host, service: Service) -> None:
    """Run the commands around a backup twice, as after a kill, and those after a restore."""
    hooks = service.backup_hooks()
    for commands in (hooks.before, hooks.before, hooks.after, hooks.after, hooks.before, hooks.restored, hooks.after):
        for command in commands:
            check(host, command, "run a backup hook")
        _require(_healthy(host, service), "it is not healthy after a backup hook")


def _healthy(host: Host, service: Service) -> bool:
    return service.assess(host.batch(service.health_probes())).ready


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise AssertionError(problem)
