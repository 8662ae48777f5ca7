"""The templates that containers are created from."""

from __future__ import annotations

from dataclasses import dataclass

from homelab.distributions import DISTRIBUTIONS, distribution_of


@dataclass(frozen=True, slots=True)
class Template:
    """A template on a node, by its volume id. A `missing` one is downloaded to its storage first."""

    node: str
    volume: str  # local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst
    missing: bool = False
    shared: bool = False  # whether all nodes share its storage

    @property
    def storage(self) -> str:
        """The storage that holds the template, or will hold it after the download."""
        return self.volume.partition(":")[0]

    @property
    def file_name(self) -> str:
        """The template's file name on the storage."""
        return file_name(self.volume)

    def __str__(self) -> str:
        return f"{self.file_name}, downloaded to {self.storage} first" if self.missing else self.file_name


def file_name(volume: str) -> str:
    """Return the file name in a template's volume id."""
    return volume.rpartition("/")[2]


def is_same_template(template: str, volume: str) -> bool:
    """Check that a template name of the inventory means this volume, or is an alias of its distribution."""
    distribution = DISTRIBUTIONS.get(template)
    return distribution_of(volume) == distribution if distribution else file_name(template) == file_name(volume)
