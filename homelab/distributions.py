"""The distributions whose templates we know: what they ship decides which versions can be had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution by its alias in the inventory, with the versions that its own packages have."""

    alias: str
    postgres: int
    python: tuple[int, int]

    @property
    def template_prefix(self) -> str:
        """How the file name of its Proxmox template begins: `debian-12-standard_`."""
        return f"{self.alias}-standard_"


DISTRIBUTIONS = {
    distribution.alias: distribution
    for distribution in (
        Distribution("ubuntu-24.04", postgres=16, python=(3, 12)),
        Distribution("debian-12", postgres=15, python=(3, 11)),
        Distribution("debian-13", postgres=17, python=(3, 13)),
    )
}


# Where apt is told of a distribution's own archive: in one of these, as its image was made.
APT_SOURCES = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources",
               "/etc/apt/sources.list.d/ubuntu.sources")


def distribution_of(template: str) -> Distribution | None:
    """The distribution of an alias or of a template's volume id; None for a template that is not in the table."""
    file_name = template.rpartition("/")[2]
    return DISTRIBUTIONS.get(template) or next(
        (d for d in DISTRIBUTIONS.values() if file_name.startswith(f"{d.alias}-")), None)
