"""System users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.host import Result, argv, is_open
from homelab.model import Pending
from homelab.steps.batching import Script, ScriptStep


def remove_stale_locks(etc: str = "/etc") -> str:
    """Return shell text that removes the leftovers of a killed useradd or groupadd, unless one is running.

    A lock contains a process id, and a later process of the same id would seem to hold it.
    """
    return rf"""{is_open(f"{etc}/.pwd.lock")} ||
for each in passwd group shadow gshadow subuid subgid; do
    rm -f {etc}/$each.lock {etc}/$each+
    for own in {etc}/$each.[0-9]*; do
        [ -e "$own" ] || continue
        pid=$(tr -d '\0' <"$own")  # empty if the process was killed before it wrote its id
        if [ "${{pid:-${{own##*.}}}}" = "${{own##*.}}" ]; then rm -f "$own"; fi
    done
done"""


@dataclass(frozen=True, eq=False)
class Group(ScriptStep):
    """A system group with exactly these members, which are existing users."""

    name: str
    members: Sequence[str]

    @property
    def title(self) -> str:
        """See Step."""
        return f"group {self.name}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("getent", "group", self.name),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        found = sorted(filter(None, answers[0].text.split(":")[3].split(",")))
        return None if found == sorted(self.members) else Pending(f"members {found} → {sorted(self.members)}")

    def script(self) -> Script:
        """See ScriptStep."""
        create = argv("groupadd", "--system", self.name)
        return Script(
            "\n".join(
                [
                    f"# creating the group {self.name}",
                    remove_stale_locks(),
                    "set -e",
                    f"{argv('getent', 'group', self.name)} >/dev/null || {create}",
                    argv("gpasswd", "--members", ",".join(sorted(self.members)), self.name),
                ]
            ),
            f"create the group {self.name}",
        )


@dataclass(frozen=True, eq=False)
class User(ScriptStep):
    """A system user with a group of its own, and no password. Its home, which this step does not create, is root's."""

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
            " && ".join(argv("getent", each, self.name) for each in ("group", "gshadow", "shadow")),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        home, shell = answers[0].text.split(":")[5:7]
        if (home, shell) != (self.home, self.shell):
            return Pending(f"home {home} → {self.home}, shell {shell} → {self.shell}")
        return None if answers[1].ok else Pending("has no group, or no entry in shadow or gshadow")

    def script(self) -> Script:
        """See ScriptStep."""
        name = quote(self.name)
        fields = ("--home-dir", self.home, "--shell", self.shell)
        add = argv("useradd", "--system", "--gid", self.name, "--no-create-home", *fields, self.name)
        change = argv("usermod", "--gid", self.name, "--home", self.home, "--shell", self.shell, self.name)
        # A killed run may have done only a part, so each part is checked.
        return Script(
            "\n".join(
                [
                    f"# creating the user {self.name}",
                    remove_stale_locks(),
                    "set -e",
                    f"getent group {name} >/dev/null || {argv('groupadd', '--system', self.name)}",
                    f"if getent passwd {name} >/dev/null; then {change}; else {add}; fi",
                    f"getent gshadow {name} >/dev/null || grpconv",
                    f"getent shadow {name} >/dev/null || pwconv",
                ]
            ),
            f"create the user {self.name}",
        )
