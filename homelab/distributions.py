"""The supported distributions, and the facts in which they differ.

They share `ssh.service` (on Ubuntu, `ssh.socket` starts it), `/usr/bin/python3` with `python3-venv`, and
postgresql-common with its clusters `N/main` in `/etc/postgresql`, their units `postgresql@N-main.service`, and PGDG's
key. tests/unit/test_distributions.py compares all these facts with the published packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution by its alias in the inventory, with the versions of its own packages.

    `codename` is its name in apt's lists; `sources` is the source file of its own images. Proxmox's templates of Ubuntu
    24.04 and Debian 12 still use `/etc/apt/sources.list`. `java` is the version of `default-jre-headless`.
    `security` is the origin of its security updates, as a pattern of unattended-upgrades. `redis` is the program with
    Redis' protocol: `-server` is the ending of its package and of its server, `-cli` that of its client.
    """

    alias: str
    codename: str
    postgres: int
    python: tuple[int, int]
    java: int
    sources: str
    security: str
    redis: Literal["redis", "valkey"]

    @property
    def template_prefix(self) -> str:
        """The prefix of its Proxmox template's file name: `debian-12-standard_`."""
        return f"{self.alias}-standard_"

    @property
    def family(self) -> str:
        """The owner of its archive: `debian` or `ubuntu`."""
        return self.alias.partition("-")[0]


_UBUNTU_SECURITY = "origin=Ubuntu,archive=${distro_codename}-security"
_DEBIAN_SECURITY = "origin=Debian,codename=${distro_codename}-security,label=Debian-Security"
DISTRIBUTIONS = {
    distribution.alias: distribution
    for distribution in (
        Distribution(
            "ubuntu-24.04",
            "noble",
            postgres=16,
            python=(3, 12),
            java=21,
            sources="/etc/apt/sources.list.d/ubuntu.sources",
            security=_UBUNTU_SECURITY,
            redis="redis",
        ),
        Distribution(
            "debian-12",
            "bookworm",
            postgres=15,
            python=(3, 11),
            java=17,
            sources="/etc/apt/sources.list.d/debian.sources",
            security=_DEBIAN_SECURITY,
            redis="redis",
        ),
        Distribution(
            "debian-13",
            "trixie",
            postgres=17,
            python=(3, 13),
            java=21,
            sources="/etc/apt/sources.list.d/debian.sources",
            security=_DEBIAN_SECURITY,
            redis="valkey",
        ),
    )
}
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # all CAs that a machine trusts, in one file
# The files in which images and templates name the archive of their distribution.
APT_SOURCES = ("/etc/apt/sources.list", *sorted({each.sources for each in DISTRIBUTIONS.values()}))


def distribution_of(template: str) -> Distribution | None:
    """Return the distribution of an alias or of a template's volume id, or None for an unknown template."""
    file_name = template.rpartition("/")[2]
    return DISTRIBUTIONS.get(template) or next(
        (d for d in DISTRIBUTIONS.values() if file_name.startswith(f"{d.alias}-")), None
    )


def security_origins(template: str) -> tuple[str, ...]:
    """Return the origins of a template's security updates; for an unknown template, those of all distributions."""
    known = distribution_of(template)
    return (known.security,) if known else tuple(sorted({each.security for each in DISTRIBUTIONS.values()}))
