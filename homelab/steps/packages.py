"""Debian packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.host import Host, Result, argv, check
from homelab.model import Pending, Step

# Waits for a dpkg that somebody else runs (unattended-upgrades at the first boot), and finishes one that was cut off.
_APT = "export DEBIAN_FRONTEND=noninteractive; "
_OPTIONS = ("-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confold",
            "-o", "Acquire::Retries=3")


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
        check(host, f"{_APT}dpkg --configure -a && {argv('apt-get', 'update', *_OPTIONS)} && "
              + argv("apt-get", "install", "--no-install-recommends", *_OPTIONS, *self.names),
              "installing packages", timeout=1800)
