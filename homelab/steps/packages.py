"""Debian packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from homelab.host import Host, Result, argv, check, is_open
from homelab.model import Pending, Step
from homelab.steps.users import unlocked

_OPTIONS = (
    "-q",
    "-y",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "APT::Install-Recommends=no",
    "-o",
    "Acquire::Retries=3",
    "-o",
    "Dpkg::Use-Pty=0",
)  # else what dpkg says of a fault is no error output
# A first boot often runs apt by itself. Installing waits for dpkg's lock, but dpkg itself and updating the lists do
# not, so these are tried again. What dpkg was cut off from is finished first: apt refuses to work before.
_FINISHED = f"""export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
patiently() {{
    tries=0
    until said=$("$@" 2>&1); do
        status=$?
        case "$said" in
            *"ould not get lock"*|*"nable to lock"*|*"nable to acquire"*|*"locked by another process"*) ;;
            *) return $status ;;
        esac
        tries=$((tries + 1))
        [ "$tries" -le 150 ] || return $status
        sleep 2
    done
}}
{unlocked()}
patiently dpkg --force-confold --configure -a; whole=$?
torn=$(dpkg-query --show --showformat='${{db:Status-Eflag}} ${{binary:Package}}\\n' | sed -n 's/^reinstreq //p')
is_finished() {{ [ "$whole" = 0 ] && [ -z "$torn" ]; }}
"""
# Where that alone does not help, as packages are missing that were not unpacked yet, apt mends it; but one that dpkg
# had almost unpacked (unpacked, and to be reinstalled) apt takes for whole, and reinstalls it only by its name. An
# update that fails in part is a good one to apt, so what it said is shown if the packages then cannot be had.
_MENDED = f"""or_say_why() {{ status=$?; echo "$said" | grep -E '^(Err|W|E):|^  ' >&2; exit $status; }}
patiently {argv("apt-get", "update", *_OPTIONS)} || {{ status=$?; echo "$said" >&2; exit $status; }}
is_finished || {argv("apt-get", "install", "--fix-broken", *_OPTIONS)} ${{torn:+--reinstall $torn}} || exit
"""
_READY = _FINISHED + _MENDED
# What was asked for may be there, and dpkg was killed nevertheless before it had run the triggers, or put its
# journal away: apt refuses to work then. While somebody is at it, it is no fault.
_UNFINISHED = rf"""left=$(ls -A /var/lib/dpkg/updates | sed -n '1s/.*/its journal is not empty/p'
dpkg-query --show --showformat='${{db:Status-Eflag}} ${{db:Status-Status}} ${{binary:Package}}\n' |
    sed -nE '/^ok (installed|config-files|not-installed) /d; s/^(ok )?(.*) (.*)/\3 is \2/p')
[ -z "$left" ] || {is_open("/var/lib/dpkg/lock*")} || echo "$left" """


@dataclass(frozen=True, eq=False)
class DpkgConfigured(Step):
    """dpkg has ended what it had begun, and no package is in between."""

    @property
    def title(self) -> str:
        """See Step."""
        return "dpkg has finished"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (_UNFINISHED,)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        left = answers[0].text.splitlines()
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        return Pending(f"was cut off: {', '.join(left[:3])}{more}") if left else None

    def apply(self, host: Host) -> None:
        """See Step."""
        check(
            host,
            f"# finishing what dpkg had begun\n{_FINISHED}! is_finished || exit 0\n{_MENDED}",
            "finishing what dpkg had begun",
            timeout=1800,
        )


@dataclass(frozen=True, eq=False)
class Packages(Step):
    """Packages that have to be installed, in one transaction."""

    names: Sequence[str]

    @property
    def title(self) -> str:
        """See Step."""
        return "packages " + " ".join(self.names)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *self.names),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        installed = {line.split()[0] for line in answers[0].text.splitlines() if line.endswith(" installed")}
        missing = [name for name in self.names if name not in installed]
        return Pending(f"not installed: {', '.join(missing)}") if missing else None

    def apply(self, host: Host) -> None:
        """See Step."""
        install = argv("apt-get", "install", *_OPTIONS, *self.names)
        check(
            host,
            f"# installing {' '.join(self.names)}\n{_READY}{install} || or_say_why",
            "installing packages",
            timeout=1800,
        )


@dataclass(frozen=True, eq=False)
class PinnedPackages(Step):
    """Packages that have a version of this pattern, as `16.4-*`, if they are installed; newer ones go back to it."""

    versions: Mapping[str, str]

    @property
    def title(self) -> str:
        """See Step."""
        return "pinned versions"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (self._query("${Package} ${db:Status-Status} ${Version}"),)

    def _query(self, shown: str) -> str:
        return argv("dpkg-query", "--show", f"--showformat={shown}\\n", *self.versions)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        found = [line.split() for line in answers[0].text.splitlines()]
        wrong = [
            f"{name} {words[-1]} → {self.versions[name]}"
            for name, state, *words in found
            if state == "installed" and not fnmatchcase(words[-1], self.versions[name])
        ]
        return Pending(", ".join(wrong)) if wrong else None

    def apply(self, host: Host) -> None:
        """See Step."""
        wanted = " ".join(f"{name}={pattern}" for name, pattern in sorted(self.versions.items()))
        there = f"there=$({self._query('${db:Status-Status} ${Package}')} 2>/dev/null | sed -n 's/^installed //p')"
        install = argv("apt-get", "install", "--allow-downgrades", *_OPTIONS)
        check(
            host,
            "\n".join(
                [
                    "# installing pinned versions",
                    _READY + there,
                    "set -f",  # the patterns are apt's, not the shell's
                    f"for each in {wanted}; do",
                    '    if echo "$there" | grep -qxF "${each%%=*}"; then set -- "$@" "$each"; fi',
                    "done",
                    f'{install} "$@" || or_say_why',
                ]
            ),
            "installing pinned versions",
            timeout=1800,
        )
