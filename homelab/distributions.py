"""The supported distributions, and the facts in which they differ.

They share `ssh.service` (on Ubuntu, `ssh.socket` starts it), `/usr/bin/python3` with `python3-venv`, and
postgresql-common with its clusters `N/main` in `/etc/postgresql`, their units `postgresql@N-main.service`, and PGDG's
key. tests/unit/test_distributions.py compares all these facts with the published packages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution by its alias in the inventory, with the versions of its own packages.

    `codename` is its name in apt's lists; `sources` is the source file of its own images. Proxmox's templates of Ubuntu
    24.04 and Debian 12 still use `/etc/apt/sources.list`.
    """

    alias: str
    codename: str
    postgres: int
    python: tuple[int, int]
    sources: str

    @property
    def template_prefix(self) -> str:
        """The prefix of its Proxmox template's file name: `debian-12-standard_`."""
        return f"{self.alias}-standard_"

    @property
    def family(self) -> str:
        """The owner of its archive: `debian` or `ubuntu`."""
        return self.alias.partition("-")[0]


DISTRIBUTIONS = {
    distribution.alias: distribution
    for distribution in (
        Distribution(
            "ubuntu-24.04", "noble", postgres=16, python=(3, 12), sources="/etc/apt/sources.list.d/ubuntu.sources"
        ),
        Distribution(
            "debian-12", "bookworm", postgres=15, python=(3, 11), sources="/etc/apt/sources.list.d/debian.sources"
        ),
        Distribution(
            "debian-13", "trixie", postgres=17, python=(3, 13), sources="/etc/apt/sources.list.d/debian.sources"
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
