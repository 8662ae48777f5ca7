"""The distributions whose templates we know, and all that homelab has to know of each: one row for each of them.

What is the same on all of them is no column: `ssh.service` (which on Ubuntu `ssh.socket` starts), `/usr/bin/python3`
with `python3-venv`, and postgresql-common with its clusters `N/main` in `/etc/postgresql`, their units
`postgresql@N-main.service`, and PGDG's key. tests/unit/test_distributions.py holds all this against what is published.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution by its alias in the inventory, with the versions that its own packages have.

    `codename` is how apt's lists call it; `sources` is the file in which its own images name its archive. Proxmox's
    templates of Ubuntu 24.04 and Debian 12 still name it in `/etc/apt/sources.list`.
    """

    alias: str
    codename: str
    postgres: int
    python: tuple[int, int]
    sources: str

    @property
    def template_prefix(self) -> str:
        """How the file name of its Proxmox template begins: `debian-12-standard_`."""
        return f"{self.alias}-standard_"

    @property
    def family(self) -> str:
        """Whose archive it is from: `debian` or `ubuntu`."""
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
# Where apt is told of a distribution's own archive: in one of these, as its image or template was made.
APT_SOURCES = ("/etc/apt/sources.list", *sorted({each.sources for each in DISTRIBUTIONS.values()}))


def distribution_of(template: str) -> Distribution | None:
    """The distribution of an alias or of a template's volume id; None for a template that is not in the table."""
    file_name = template.rpartition("/")[2]
    return DISTRIBUTIONS.get(template) or next(
        (d for d in DISTRIBUTIONS.values() if file_name.startswith(f"{d.alias}-")), None
    )
