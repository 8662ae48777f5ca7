"""Changes one at a time: a command that goes on after its connection was lost meets no second one."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.progress import Progress
from homelab.steps import remote_paths

_TAKEN = 75  # exit status: another command of ours still runs
_CUT_OFF = 74  # exit status: not all of standard input came over, so nothing was begun
_ENDED = 124  # exit status of timeout(1)
_LARGE = 4096  # bytes of standard input from which on it is compressed
_GRACE = 30.0  # seconds that the other side has beyond the deadline, to end the command itself


class Busy(HomelabError):
    """A command that an earlier run began is still going on."""


class LockedHost:
    """A host on which every command holds a lock until its last process has ended, also without us.

    Standard input comes over whole before a command begins, so that none takes half a file for a whole one; what is
    large, compressed. What a command prints goes to files, so that it does not die of a line that broke.
    """

    def __init__(self, host: Host, progress: Progress) -> None:
        self._host, self._progress = host, progress

    @property
    def name(self) -> str:
        """See Host.name."""
        return self._host.name

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run. Raises Busy; and HomelabError when the command did not end in time, and was ended."""
        started = time.monotonic()
        sent = gzip.compress(stdin, mtime=0) if (packed := len(stdin) > _LARGE) else stdin
        result = self._host.run(_script(command, len(sent), packed, timeout), stdin=sent, timeout=timeout + _GRACE)
        if result.status == _TAKEN and b"homelab: taken" in result.stderr:
            raise Busy(f"{self.name}: something is still going on there", "A command of an earlier run has not ended.")
        result = replace(result, command=command)
        self._progress.event(
            self.name,
            "command",
            command=command,
            status=result.status,
            seconds=round(time.monotonic() - started, 3),
            output=_said(result),
        )
        if result.status == _ENDED:
            raise HomelabError(
                f"{self.name}: a command did not end",
                f"It was ended after {timeout:.0f} s: `{command.strip()[:300]}`\n{_said(result)[-1500:]}",
                f"See what it waited for, in `homelab ssh {self.name}`, and run the same again.",
            )
        return result

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch: reading needs no lock."""
        return self._host.batch(commands)

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        self._host.reconnect(deadline)


def busy_probe() -> str:
    """Shell text that fails while a command of ours goes on. Changes nothing."""
    return f"[ ! -e {remote_paths.lock()} ] || flock --shared --nonblock {remote_paths.lock()} true"


def wait_until_idle(host: Host, deadline: float) -> None:
    """Wait for the end of a boot, and of what an earlier run began. Raises HomelabError, naming what does not end."""
    check(
        host,
        "\n".join(
            [
                "# waiting for the end of what has begun",
                "if command -v systemctl >/dev/null; then",
                "    timeout 90 systemctl is-system-running --wait >/dev/null 2>&1",
                "fi",
                f"lock={remote_paths.lock()}",
                f'[ ! -e "$lock" ] || flock --shared --timeout {deadline:.0f} "$lock" true && exit',
                'for held in $(find /proc/[0-9]*/fd -lname "$lock" 2>/dev/null); do',
                "    pid=${held#/proc/}; pid=${pid%%/*}",
                "    echo \"process $pid: $(tr '\\0' ' ' </proc/$pid/cmdline)\" >&2",
                "done; exit 1",
            ]
        ),
        "waiting for the end of what an earlier run has begun",
        timeout=deadline + 100,
    )


def _script(command: str, size: int, packed: bool, timeout: float) -> str:
    run = remote_paths.RUN
    taken_in = (
        [
            f'cat >{run}/in && [ "$(stat -c %s {run}/in)" = {size} ] || exit {_CUT_OFF}',
            f"exec 8<{run}/in; rm -f {run}/in",
        ]
        if size
        else ["exec 8</dev/null"]
    )
    begin = f"timeout --kill-after=10 {timeout:.0f} sh -c {quote(command)}"
    fed = f"gzip -dc <&8 | {begin}" if packed else f"{begin} <&8"
    return "\n".join(
        [
            f"# {command.strip().splitlines()[0].removeprefix('# ')}",  # by which messages name it
            f"umask 077; [ -d {run} ] || mkdir -p {run}; exec 9>>{remote_paths.lock()} || exit",
            f"flock --timeout 5 9 || {{ echo 'homelab: taken' >&2; exit {_TAKEN}; }}",
            *taken_in,
            f"umask 022; {fed} 8<&- >{run}/out 2>{run}/err",
            f"status=$?; cat {run}/out; [ ! -s {run}/err ] || cat {run}/err >&2; exit $status",
        ]
    )


def _said(result: Result) -> str:
    return (result.stdout + result.stderr).decode(errors="replace").strip()
