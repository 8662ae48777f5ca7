"""Settings of the SSH server, checked by the server's own view of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv, check
from homelab.model import Pending
from homelab.steps.files import File, keep_foreign

_USERS = ("root", "nobody")  # `Match` blocks can treat users differently
_SAME = {"prohibit-password": "without-password"}  # `sshd -T` prints the old name


@dataclass(frozen=True, eq=False)
class SshdSettings(File):
    """A file of settings that sshd has to follow; if `sshd_config` does not include it first, a line is added there.

    A value that a `Match` block overrides is an error that names the block.
    """

    sshd: str = "/usr/sbin/sshd"
    config: str = "/etc/ssh/sshd_config"
    alone: ClassVar[bool] = True

    def probes(self) -> Sequence[str]:
        """See Step. The last one asks sshd for its settings."""
        return (*super().probes(), self._effective)

    @property
    def _effective(self) -> str:
        """The shell text that prints the wanted settings, as far as they are in force for every user."""
        tests = [
            argv(self.sshd, "-T", "-f", self.config, "-C", f"user={user},host=localhost,addr=127.0.0.1")
            for user in _USERS
        ]
        patterns = " ".join(f"-e {quote(line)}" for line in self._wanted())
        return f"{{ {' && '.join(tests)}; }} | grep -ixF {patterns}"

    def _wanted(self) -> Iterator[str]:
        """Yield the settings as `sshd -T` prints them."""
        for line in self.content.decode().splitlines():
            name, _, value = line.partition(" ")
            if value and not name.startswith("#"):
                yield f"{name.lower()} {_SAME.get(value, value)}"

    def _missing(self, answer: Result) -> list[str]:
        found = answer.text.splitlines()
        return [line for line in self._wanted() if found.count(line) < len(_USERS)]

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, effective = answers
        if changed := super().check(file):
            return changed
        missing = self._missing(effective)
        return Pending(f"not in force: {', '.join(missing)}") if missing else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError with the lines that override the settings."""
        super().apply(host)
        if not self._missing(host.run(self._effective)):
            return
        check(host, self._include(), f"include {self.path} in {self.config}")
        if missing := self._missing(host.run(self._effective)):
            names = "|".join(line.partition(" ")[0] for line in missing)
            lines = host.run(f"grep -inE '^[[:space:]]*(match|{names})[[:space:]]' {quote(self.config)}").text
            raise HomelabError(
                f"Cannot apply the settings of sshd on {host.name}: {', '.join(missing)} is not in force",
                f"{self.config} has these lines:\n{lines}",
                "Remove them, then run `homelab deploy` again.",
            )

    def _include(self) -> str:
        """Return shell text that makes the file the first one that sshd reads. The first value of a setting counts."""
        new, line = quote(f"{self.config}.homelab"), quote(f"Include {self.path}")
        return "\n".join(
            [
                f"! head -n 1 {quote(self.config)} | grep -qxF {line} || exit 0",
                "set -e",
                keep_foreign(self.config, argv("sha256sum", self.config), ""),
                f"cp -a {quote(self.config)} {new}",
                f"{{ echo {line}; cat {quote(self.config)}; }} >{new}",
                f"{self.sshd} -t -f {new}; sync {new}; mv -fT {new} {quote(self.config)}",
            ]
        )
