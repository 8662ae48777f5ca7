"""Golden containers: Proxmox templates that `homelab bake` creates from deployed containers. Pure: no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAG = "homelab-golden"
GOLDEN = "golden-"  # prefix of the host names of golden containers
_LONGEST = 63  # maximum length of a host name
_LINE = re.compile(
    r"^Golden container of (\S+), created at (\S+) from (\S+)\. Its SSH host key is "
    r"(SHA256:[A-Za-z0-9+/]{43})\.$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenContainer:
    """A golden container: the record in its description, and its location.

    `of`: the container that it was cloned from; `template`: the template of that container; `fingerprint`: that of its
    SSH host key, which every new clone still has; `whole`: it has been converted to a template.
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
        """Render its description on Proxmox, for the homelab named `lab`."""
        return (
            f"Golden container of {self.of}, created at {self.made} from {self.template}. Its SSH host key is "
            f"{self.fingerprint}.\n\n"
            f"`homelab up` clones it for containers of the homelab `{lab}` with `clone_from: {self.of}`. It contains "
            f"all of {self.of}, including passwords, keys and data. `homelab golden delete {self.of}` removes it."
        )

    def __str__(self) -> str:
        return f"{self.vmid}, created at {self.made}"


def read(description: str) -> GoldenContainer | None:
    """Parse a golden container's description; None for other descriptions."""
    match = _LINE.search(description)
    return GoldenContainer(of=match[1], made=match[2], template=match[3], fingerprint=match[4]) if match else None


def host_name(of: str) -> str:
    """Return the host name of the golden container of `of`."""
    return f"{GOLDEN}{of}"[:_LONGEST].rstrip("-")
