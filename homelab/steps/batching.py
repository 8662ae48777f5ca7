"""Short steps that stand one after another, as files and directories do, go over in one command."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from shlex import quote
from typing import ClassVar

from homelab.host import CommandFailed, Host, check
from homelab.model import Step

_MOST = 40_000  # characters of shell text in one command; Linux takes 131,071, and quoting makes it longer
NOW = "date +%s%N"  # after each step: nanoseconds, from which it is known how far it came


@dataclass(frozen=True, slots=True)
class Script:
    """Shell text that does all of a step, what that is for in a message, and what it reads from standard input."""

    text: str
    what: str
    stdin: bytes = field(default=b"", repr=False)


class ScriptStep(Step):
    """A step that is one short command. One that does more than that, and so is `alone`, has its own `apply`."""

    alone: ClassVar[bool] = False

    @abstractmethod
    def script(self) -> Script:
        """What makes it so. Idempotent, and safe to be killed at any point."""

    def apply(self, host: Host) -> None:
        """See Step."""
        script = self.script()
        check(host, script.text, script.what, stdin=script.stdin)


def batch_size(steps: Sequence[Step]) -> int:
    """How many of these go over in one command, from the first one on: at least one."""
    size = 0
    for count, step in enumerate(steps):
        size += len(step.script().text) if isinstance(step, ScriptStep) and not step.alone else _MOST
        if size >= _MOST:
            return max(count, 1)
    return len(steps)


def batch_title(steps: Sequence[Step]) -> str:
    """What is said while they are applied."""
    return f"{steps[0].title} and {len(steps) - 1} more" if len(steps) > 1 else steps[0].title


def apply_batch(host: Host, steps: Sequence[Step], after: Callable[[Step], str]) -> Iterator[float]:
    """Apply one step, or several that go together; give the seconds that each took, in order.

    `after` gives the shell text that follows a step, or nothing. Raises the HomelabError of the one that failed:
    those for which there was a time are done, and those that come after it are not begun.
    """
    if len(steps) > 1:
        brief = [step for step in steps if isinstance(step, ScriptStep)]
        yield from _in_one(host, batch_title(steps), [(step.script(), after(step)) for step in brief])
        return
    started = time.monotonic()
    steps[0].apply(host)
    if then := after(steps[0]):
        check(host, then, "noting what is done")
    yield time.monotonic() - started


def _in_one(host: Host, name: str, parts: Sequence[tuple[Script, str]]) -> Iterator[float]:
    command = "\n".join([f"# {name}", NOW, *(_part(script, then) for script, then in parts)])
    result = host.run(command, stdin=b"".join(script.stdin for script, _ in parts))
    moments = [int(line) for line in result.text.split()]
    yield from ((later - earlier) / 1e9 for earlier, later in pairwise(moments))
    done = max(len(moments) - 1, 0)
    # A shell that is killed when the last one has said that it is done takes nothing back.
    if not result.ok and done < len(parts):
        failed, _ = parts[done]
        raise CommandFailed(host.name, replace(result, command=failed.text), failed.what)


def _part(script: Script, then: str) -> str:
    """Shell text that hands a script its part of standard input, all of which is taken whatever the script reads."""
    return (
        f"head -c {len(script.stdin)} | {{ sh -c {quote(script.text)} >&2; status=$?; cat >/dev/null; "
        f"exit $status; }} && {then or ':'} && {NOW} || exit"
    )
