"""Golden containers: Proxmox templates that `homelab bake` makes of deployed containers. Pure: text and data."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAG = "homelab-golden"
GOLDEN = "golden-"  # how the host names of golden containers begin
_LONGEST = 63  # characters in a host name
_LINE = re.compile(
    r"^Golden container of (\S+), baked at (\S+) from (\S+)\. Its SSH host key is "
    r"(SHA256:[A-Za-z0-9+/]{43})\.$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenContainer:
    """What a golden container says of itself, and where it is.

    `of`: the container that it was cloned from; `template`: what that one was made from; `fingerprint`: its SSH host
    key's, which every clone shows at first; `whole`: it has been made a template.
    """

    of: str
    made: str  # in UTC, as in 2026-11-23T08:15:00Z
    template: str
    fingerprint: str
    vmid: int = 0
    node: str = ""
    disk: int = 0  # GiB
    whole: bool = False
    lock: str | None = None

    def description(self, lab: str) -> str:
        """What its description on Proxmox says."""
        return (
            f"Golden container of {self.of}, baked at {self.made} from {self.template}. Its SSH host key is "
            f"{self.fingerprint}.\n\n"
            f"`homelab up` clones it for containers of the homelab `{lab}` that say `clone_from: {self.of}`. All that "
            f"{self.of} had is in it, passwords, keys and data too. `homelab bake --delete {self.of}` removes it."
        )

    def __str__(self) -> str:
        return f"{self.vmid}, baked at {self.made}"


def read(description: str) -> GoldenContainer | None:
    """What such a description says; None for any other."""
    match = _LINE.search(description)
    return GoldenContainer(of=match[1], made=match[2], template=match[3], fingerprint=match[4]) if match else None


def host_name(of: str) -> str:
    """The host name of a container's golden one."""
    return f"{GOLDEN}{of}"[:_LONGEST].rstrip("-")
