"""System users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.host import Result, argv, is_open
from homelab.model import Pending
from homelab.steps.batching import Script, ScriptStep


def unlocked(etc: str = "/etc") -> str:
    """Shell text that removes what useradd and its like leave when they are killed; nothing while one of them runs.

    A lock names a process, and a later one of the same number would seem to hold it for as long as it lives.
    """
    return rf"""{is_open(f"{etc}/.pwd.lock")} ||
for each in passwd group shadow gshadow subuid subgid; do
    rm -f {etc}/$each.lock {etc}/$each+
    for own in {etc}/$each.[0-9]*; do
        [ -e "$own" ] || continue
        said=$(tr -d '\0' <"$own")  # its number, or nothing yet
        if [ "${{said:-${{own##*.}}}}" = "${{own##*.}}" ]; then rm -f "$own"; fi
    done
done"""


@dataclass(frozen=True, eq=False)
class User(ScriptStep):
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
        return (
            argv("getent", "passwd", self.name),
            " && ".join(
                [
                    *(argv("getent", each, self.name) for each in ("group", "gshadow", "shadow")),
                    argv("test", "-d", self.home),
                ]
            ),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        home, shell = answers[0].text.split(":")[5:7]
        if (home, shell) != (self.home, self.shell):
            return Pending(f"home {home} → {self.home}, shell {shell} → {self.shell}")
        return None if answers[1].ok else Pending("has no group, no entry in shadow or gshadow, or no home")

    def script(self) -> Script:
        """See Brief."""
        name, home = quote(self.name), quote(self.home)
        fields = ("--home-dir", self.home, "--shell", self.shell)
        add = argv("useradd", "--system", "--gid", self.name, "--no-create-home", *fields, self.name)
        change = argv("usermod", "--gid", self.name, "--home", self.home, "--shell", self.shell, self.name)
        # Each on its own, and the home in one rename: a run that was killed in between left half of it.
        return Script(
            "\n".join(
                [
                    f"# making the user {self.name}",
                    unlocked(),
                    "set -e",
                    f"getent group {name} >/dev/null || {argv('groupadd', '--system', self.name)}",
                    f"if getent passwd {name} >/dev/null; then {change}; else {add}; fi",
                    f"getent gshadow {name} >/dev/null || grpconv",
                    f"getent shadow {name} >/dev/null || pwconv",
                    f"[ ! -d {home} ] || exit 0",
                    f"rm -rf {home}.new; cp -rT /etc/skel {home}.new",
                    f"chown -R {name}:{name} {home}.new; chmod 700 {home}.new; mv -T {home}.new {home}",
                ]
            ),
            f"making the user {self.name}",
        )
