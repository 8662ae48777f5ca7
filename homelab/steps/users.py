"""System users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

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
        return (argv("getent", "passwd", self.name),
                f"{argv('getent', 'group', self.name)} && {argv('getent', 'shadow', self.name)} && "
                f"{argv('test', '-d', self.home)}")

    def pending(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        home, shell = answers[0].text.split(":")[5:7]
        if (home, shell) != (self.home, self.shell):
            return Pending(f"home {home} → {self.home}, shell {shell} → {self.shell}")
        return None if answers[1].ok else Pending("has no group, no entry in shadow, or no home")

    def apply(self, host: Host) -> None:
        """See Step."""
        name, home = quote(self.name), quote(self.home)
        fields = ("--home-dir", self.home, "--shell", self.shell)
        add = argv("useradd", "--system", "--gid", self.name, "--no-create-home", *fields, self.name)
        change = argv("usermod", "--gid", self.name, "--home", self.home, "--shell", self.shell, self.name)
        # Each on its own, and the home in one rename: a run that was killed in between left half of it.
        check(host, "\n".join([
            "set -e",
            f"getent group {name} >/dev/null || {argv('groupadd', '--system', self.name)}",
            f"if getent passwd {name} >/dev/null; then {change}; else {add}; fi",
            f"getent shadow {name} >/dev/null || pwconv",
            f"[ ! -d {home} ] || exit 0",
            f"rm -rf {home}.new; cp -rT /etc/skel {home}.new",
            f"chown -R {name}:{name} {home}.new; chmod 700 {home}.new; mv -T {home}.new {home}",
        ]), f"making the user {self.name}")
