"""One change at a time: a command that continues after a lost connection never meets a second one."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.progress import Progress
from homelab.steps import remote_paths

_LOCKED = 75  # exit status: another of our commands is still running
_INCOMPLETE = 74  # exit status: the command or its input did not arrive completely, so nothing was started
_TIMED_OUT = 124  # exit status of timeout(1)
_COMPRESS_FROM = 4096  # bytes of standard input
# A command in a sandbox is no child of ours: it outlives our processes if these are killed.
_END_OUTLIVED = """for unit in /run/systemd/transient/homelab-step-*.service; do
    [ ! -e "$unit" ] || systemctl stop "${unit##*/}"
done; export HOMELAB_STEP=1"""
_GRACE = 30.0  # seconds after the deadline in which the remote side ends the command itself


class Busy(HomelabError):
    """A command of an earlier run is still running."""


class LockedHost:
    """A host on which each command holds a lock until its last process has ended, even without a connection.

    A command starts only after its text and its standard input have arrived completely; large input is compressed.
    Its output goes to files, so that a broken connection does not kill it.
    """

    def __init__(self, host: Host, progress: Progress) -> None:
        self._host, self._progress = host, progress

    @property
    def name(self) -> str:
        """See Host.name."""
        return self._host.name

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run. Raises Busy; raises HomelabError when the command was ended at its deadline."""
        started = time.monotonic()
        sent = gzip.compress(stdin, mtime=0) if (compressed := len(stdin) > _COMPRESS_FROM) else stdin
        result = self._host.run(_script(command, len(sent), compressed, timeout), stdin=sent, timeout=timeout + _GRACE)
        if result.status == _LOCKED and b"homelab: locked" in result.stderr:
            raise Busy(
                f"Cannot change {self.name}: a command of an earlier run is still running",
                "It holds the lock of this container.",
                "Wait for its end, then run the same command again.",
            )
        result = replace(result, command=command)
        self._progress.event(
            self.name,
            "command",
            command=command,
            status=result.status,
            seconds=round(time.monotonic() - started, 3),
            output=_output(result),
        )
        if result.status == _TIMED_OUT:
            raise HomelabError(
                f"Cannot finish a command on {self.name}: it was ended after {timeout:.0f} s",
                f"`{command.strip()[:300]}`\n{_output(result)[-1500:]}",
                f"Find out what it waits for with `homelab ssh {self.name}`, then run the same command again.",
            )
        return result

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch: reading needs no lock."""
        return self._host.batch(commands)

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        self._host.reconnect(deadline)


def busy_probe() -> str:
    """Return shell text that fails while one of our commands is running. It changes nothing."""
    return f"[ ! -e {remote_paths.lock()} ] || flock --shared --nonblock {remote_paths.lock()} true"


def wait_until_idle(host: Host, deadline: float) -> None:
    """Wait until the boot and an earlier run's command have ended. Raises HomelabError with the running processes."""
    check(
        host,
        "\n".join(
            [
                "# waiting for the end of an earlier command",
                "if command -v systemctl >/dev/null; then",
                "    timeout 90 systemctl is-system-running --wait >/dev/null 2>&1",
                "fi",
                f"lock={remote_paths.lock()}",
                f'[ ! -e "$lock" ] || flock --shared --timeout {deadline:.0f} "$lock" true && exit',
                'for held in $(find /proc/[0-9]*/fd -lname "$lock" 2>/dev/null); do',
                "    pid=${held#/proc/}; pid=${pid%%/*}",
                "    echo \"process $pid: $(tr '\\0' ' ' </proc/$pid/cmdline)\" >&2",
                f"done; sed -n '2s/^/command: /p' {remote_paths.RUN}/command >&2 2>/dev/null; exit 1",
            ]
        ),
        "wait for the end of an earlier run's command",
        timeout=deadline + 100,
    )


def _script(command: str, size: int, compressed: bool, timeout: float) -> str:
    """Return the shell text that runs a command under the lock, with `size` bytes of standard input.

    The command is a here-document, so that its text needs no quoting. In braces, as the shell then runs nothing of an
    incomplete text. The delimiter is a hash, which the text cannot contain.
    """
    run = remote_paths.RUN
    delimiter = f"end-{hashlib.sha256(command.encode()).hexdigest()[:16]}"
    receive_input = (
        [
            f'cat >{run}/in && [ "$(stat -c %s {run}/in)" = {size} ] || exit {_INCOMPLETE}',
            f"exec 8<{run}/in; rm -f {run}/in",
        ]
        if size
        else ["exec 8</dev/null"]
    )
    start = f"timeout --kill-after=10 {timeout:.0f} sh {run}/command"
    start_with_input = f"gzip -dc <&8 | {start}" if compressed else f"{start} <&8"
    return "\n".join(
        [
            f"# {command.strip().splitlines()[0].removeprefix('# ')}",  # names it in messages
            f"umask 077; [ -d {run} ] || mkdir -p {run}; exec 9>>{remote_paths.lock()} || exit",
            f"flock --timeout 5 9 || {{ echo 'homelab: locked' >&2; exit {_LOCKED}; }}",
            _END_OUTLIVED,
            *receive_input,
            f"cat >{run}/command <<'{delimiter}' || exit {_INCOMPLETE}",
            "{",
            command,
            "}",
            delimiter,
            f"umask 022; {start_with_input} 8<&- >{run}/out 2>{run}/err",
            f"status=$?; cat {run}/out; [ ! -s {run}/err ] || cat {run}/err >&2; exit $status",
        ]
    )


def _output(result: Result) -> str:
    return (result.stdout + result.stderr).decode(errors="replace").strip()
