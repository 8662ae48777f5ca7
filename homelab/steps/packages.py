"""Debian packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from homelab.host import Host, Result, argv, check, is_open
from homelab.model import Pending, Step
from homelab.steps.users import remove_stale_locks

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
    "Dpkg::Use-Pty=0",  # with a terminal, dpkg's errors would not go to standard error
)
# A first boot often runs apt by itself. `apt-get install` waits for dpkg's lock, but dpkg and `apt-get update` do not,
# so these are retried. An interrupted dpkg has to finish first: apt refuses to work before.
_CONFIGURE = f"""export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
retry_while_locked() {{
    tries=0
    until output=$("$@" 2>&1); do
        status=$?
        case "$output" in
            *"ould not get lock"*|*"nable to lock"*|*"nable to acquire"*|*"locked by another process"*) ;;
            *) return $status ;;
        esac
        tries=$((tries + 1))
        [ "$tries" -le 150 ] || return $status
        sleep 2
    done
}}
{remove_stale_locks()}
retry_while_locked dpkg --force-confold --configure -a; configured=$?
broken=$(dpkg-query --show --showformat='${{db:Status-Eflag}} ${{binary:Package}}\\n' | sed -n 's/^reinstreq //p')
is_finished() {{ [ "$configured" = 0 ] && [ -z "$broken" ]; }}
"""
# If dependencies were not unpacked yet, apt repairs that. But a package that dpkg had almost unpacked (`reinstreq`)
# seems complete to apt, which reinstalls it only by name. An update that fails for some sources is a success to apt, so
# its output is shown if the packages cannot be installed afterwards.
_REPAIR = f"""fail_with_update_errors() {{ status=$?; echo "$output" | grep -E '^(Err|W|E):|^  ' >&2; exit $status; }}
retry_while_locked {argv("apt-get", "update", *_OPTIONS)} || {{ status=$?; echo "$output" >&2; exit $status; }}
is_finished || {argv("apt-get", "install", "--fix-broken", *_OPTIONS)} ${{broken:+--reinstall $broken}} || exit
"""
_PREPARE = _CONFIGURE + _REPAIR
# All packages may be installed, and dpkg was killed nevertheless before it had run the triggers or removed its journal:
# apt then refuses to work. A running dpkg is no error.
_UNFINISHED = rf"""left=$(ls -A /var/lib/dpkg/updates | sed -n '1s/.*/its journal is not empty/p'
dpkg-query --show --showformat='${{db:Status-Eflag}} ${{db:Status-Status}} ${{binary:Package}}\n' |
    sed -nE '/^ok (installed|config-files|not-installed) /d; s/^(ok )?(.*) (.*)/\3 is \2/p')
[ -z "$left" ] || {is_open("/var/lib/dpkg/lock*")} || echo "$left" """


@dataclass(frozen=True, eq=False)
class DpkgConfigured(Step):
    """dpkg without unfinished work: every package is either installed or not."""

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
        return Pending(f"was interrupted: {', '.join(left[:3])}{more}") if left else None

    def apply(self, host: Host) -> None:
        """See Step."""
        check(
            host,
            f"# finishing the interrupted work of dpkg\n{_CONFIGURE}! is_finished || exit 0\n{_REPAIR}",
            "finish the interrupted work of dpkg",
            timeout=1800,
        )


@dataclass(frozen=True, eq=False)
class Packages(Step):
    """Installed packages; missing ones are installed in one transaction."""

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
            f"# installing {' '.join(self.names)}\n{_PREPARE}{install} || fail_with_update_errors",
            "install packages",
            timeout=1800,
        )


@dataclass(frozen=True, eq=False)
class PinnedPackages(Step):
    """Installed packages with versions that match patterns such as `16.4-*`; newer ones are downgraded."""

    versions: Mapping[str, str]

    @property
    def title(self) -> str:
        """See Step."""
        return "pinned versions"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (self._query("${Package} ${db:Status-Status} ${Version}"),)

    def _query(self, format_: str) -> str:
        return argv("dpkg-query", "--show", f"--showformat={format_}\\n", *self.versions)

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
        query = f"{self._query('${db:Status-Status} ${Package}')} 2>/dev/null"
        install = argv("apt-get", "install", "--allow-downgrades", *_OPTIONS)
        check(
            host,
            "\n".join(
                [
                    "# installing pinned versions",
                    f"{_PREPARE}installed=$({query} | sed -n 's/^installed //p')",
                    "set -f",  # the patterns are apt's, not the shell's
                    f"for each in {wanted}; do",
                    '    if echo "$installed" | grep -qxF "${each%%=*}"; then set -- "$@" "$each"; fi',
                    "done",
                    f'{install} "$@" || fail_with_update_errors',
                ]
            ),
            "install pinned versions",
            timeout=1800,
        )
