"""What a container is made from."""

from __future__ import annotations

from dataclasses import dataclass

from homelab.distributions import DISTRIBUTIONS, distribution_of


@dataclass(frozen=True, slots=True)
class Template:
    """A template for a node, by its volume id. One that is `missing` is downloaded to its storage first."""

    node: str
    volume: str  # local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst
    missing: bool = False
    shared: bool = False  # whether its storage is that of all nodes

    @property
    def storage(self) -> str:
        """The storage that has it, or will have it."""
        return self.volume.partition(":")[0]

    @property
    def file_name(self) -> str:
        """Its name on the storage."""
        return file_name(self.volume)

    def __str__(self) -> str:
        return f"{self.file_name}, downloaded to {self.storage} first" if self.missing else self.file_name


def file_name(volume: str) -> str:
    """The file of a template's volume id, on whichever storage."""
    return volume.rpartition("/")[2]


def is_same_template(template: str, volume: str) -> bool:
    """Whether a template as the inventory names it is that volume, or an alias of its distribution."""
    distribution = DISTRIBUTIONS.get(template)
    return distribution_of(volume) == distribution if distribution else file_name(template) == file_name(volume)
