"""Consecutive short steps, such as files and directories, are sent in one command."""

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
from homelab.steps.root_only import ONLY_ROOT, guarded, root_only

_BATCH_LIMIT = 40_000  # characters of shell text in one command; Linux accepts 131,071, and quoting lengthens it
NOW = "date +%s%N"  # printed after each step, in nanoseconds; the number of lines shows the number of finished steps


@dataclass(frozen=True, slots=True)
class Script:
    """Shell text that applies a whole step, and its standard input; `action` names it in an error (`write /etc/x`).

    `path` is the entry that it writes: it runs only if no other user can redirect that.
    """

    text: str
    action: str
    stdin: bytes = field(default=b"", repr=False)
    path: str = ""


class ScriptStep(Step):
    """A step that is one short script. A step that does more is `alone` and has an `apply` of its own."""

    alone: ClassVar[bool] = False

    @abstractmethod
    def script(self) -> Script:
        """Return the script that applies the step: idempotent, and safe to be killed at any point."""

    def apply(self, host: Host) -> None:
        """See Step."""
        script = self.script()
        text = guarded(script.text, script.path) if script.path else script.text
        check(host, text, script.action, stdin=script.stdin)


def batch_size(steps: Sequence[Step]) -> int:
    """Return the number of leading steps that are sent in one command: at least one."""
    size = 0
    for count, step in enumerate(steps):
        size += len(step.script().text) if isinstance(step, ScriptStep) and not step.alone else _BATCH_LIMIT
        if size >= _BATCH_LIMIT:
            return max(count, 1)
    return len(steps)


def batch_title(steps: Sequence[Step]) -> str:
    """Return the title of a batch for the progress display."""
    return f"{steps[0].title} and {len(steps) - 1} more" if len(steps) > 1 else steps[0].title


def apply_batch(host: Host, steps: Sequence[Step], finish: Callable[[Step], str]) -> Iterator[float]:
    """Apply one step, or several in one command; yield the seconds of each applied step, in order.

    `finish` returns the shell text that runs right after a step, or "". Raises the HomelabError of the step that
    failed: the steps before it have yielded their time, the steps after it were not started.
    """
    if len(steps) > 1:
        scripts = [step for step in steps if isinstance(step, ScriptStep)]
        yield from _apply_scripts(host, batch_title(steps), [(step.script(), finish(step)) for step in scripts])
        return
    started = time.monotonic()
    steps[0].apply(host)
    if text := finish(steps[0]):
        check(host, text, f"note that `{steps[0].title}` is done")
    yield time.monotonic() - started


def _apply_scripts(host: Host, title: str, parts: Sequence[tuple[Script, str]]) -> Iterator[float]:
    command = "\n".join([f"# {title}", ONLY_ROOT, NOW, *(_part(script, finish) for script, finish in parts)])
    result = host.run(command, stdin=b"".join(script.stdin for script, _ in parts))
    moments = [int(line) for line in result.text.split()]
    yield from ((later - earlier) / 1e9 for earlier, later in pairwise(moments))
    done = max(len(moments) - 1, 0)
    # A shell that was killed after its last step has printed its time has done all of them.
    if not result.ok and done < len(parts):
        failed, _ = parts[done]
        raise CommandFailed(host.name, replace(result, command=failed.text), failed.action)


def _part(script: Script, finish: str) -> str:
    """Return shell text that runs a script in its own shell, with its part of standard input.

    The part is consumed completely, however much of it the script reads.
    """
    guard = f"{root_only(script.path)} && " if script.path else ""
    return (
        f"{guard}head -c {len(script.stdin)} | {{ sh -c {quote(script.text)} >&2; status=$?; cat >/dev/null; "
        f"exit $status; }} && {finish or ':'} && {NOW} || exit"
    )
