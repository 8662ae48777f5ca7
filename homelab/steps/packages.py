"""Debian packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.host import Host, Result, argv, check
from homelab.model import Pending, Step

_OPTIONS = ("-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold",
            "-o", "Acquire::Retries=3")
# A first boot often runs apt by itself. Installing waits for dpkg's lock, but updating the lists does not wait for
# theirs, so that is tried again. What dpkg was cut off from is finished first: apt refuses to work before.
_UPDATE = f"""export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
if ls /var/lib/dpkg/updates/* >/dev/null 2>&1; then dpkg --configure -a || exit; fi
tries=0
until said=$({argv("apt-get", "update", *_OPTIONS)} 2>&1); do
    case "$said" in *"Could not get lock"*) tries=$((tries + 1)) ;; *) tries=999 ;; esac
    [ "$tries" -le 150 ] || {{ echo "$said" >&2; exit 100; }}
    sleep 2
done
"""


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

    def pending(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        installed = {line.split()[0] for line in answers[0].text.splitlines() if line.endswith(" installed")}
        missing = [name for name in self.names if name not in installed]
        return Pending(f"not installed: {', '.join(missing)}") if missing else None

    def apply(self, host: Host) -> None:
        """See Step."""
        check(host, _UPDATE + argv("apt-get", "install", "--no-install-recommends", *_OPTIONS, *self.names),
              "installing packages", timeout=1800)
