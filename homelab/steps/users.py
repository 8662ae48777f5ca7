"""System users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.host import Host, Result, argv, check
from homelab.model import Pending, Step


@dataclass(frozen=True, eq=False)
class User(Step):
    """A system user with a group and a home of its own, and no password."""

    name: str
    home: str
    shell: str = "/usr/sbin/nologin"

    @property
    def title(self) -> str:
        """See Step."""
        return f"user {self.name}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("getent", "passwd", self.name),)

    def pending(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        home, shell = answers[0].text.split(":")[5:7]
        if (home, shell) != (self.home, self.shell):
            return Pending(f"home {home} → {self.home}, shell {shell} → {self.shell}")
        return None

    def apply(self, host: Host) -> None:
        """See Step."""
        fields = ("--home-dir", self.home, "--shell", self.shell)
        add = argv("useradd", "--system", "--user-group", "--create-home", *fields, self.name)
        change = argv("usermod", "--home", self.home, "--shell", self.shell, self.name)
        check(host, f"if {argv('getent', 'passwd', self.name)} >/dev/null; then {change}; else {add}; fi",
              f"making the user {self.name}")
