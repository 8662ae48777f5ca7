"""Pending security updates of running containers, and restarts that are due after updates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from homelab.errors import HomelabError
from homelab.host import Result, expected_format
from homelab.model import Container
from homelab.runtime.concurrency import run_all
from homelab.runtime.session import Session
from homelab.services.security_updates import HELD_BACK

_CONNECT_DEADLINE = 5.0  # seconds
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
STALE = 3 * 86400  # seconds since the last update of the package lists
# A simulated upgrade names the origin of each package. Processes keep the libraries that an upgrade has replaced.
PROBE = r"""age=$(($(date +%s) - $(stat -c %Y /var/lib/apt/lists/partial || echo 0)))
echo "lists $age"
LC_ALL=C apt-get -qq --simulate -o Debug::NoLocking=1 dist-upgrade 2>/dev/null |
    sed -nE 's/^Inst ([^ ]+) .*[(].*[Ss]ecurity.*/pending \1/p'
[ ! -e /run/reboot-required ] || echo "stale the kernel or the system"
for maps in $(grep -lsE '[[:space:]]/usr/.*[(]deleted[)]$' /proc/[0-9]*/maps); do
    read -r name <"${maps%/maps}/comm" && echo "stale $name"
done 2>/dev/null
true"""


@dataclass(frozen=True, slots=True)
class PatchLevel:
    """The security updates that a container lacks, and the programs that still run replaced files.

    `list_age` is in seconds; `unattended` is True if homelab has the updates installed unattended.
    """

    container: str
    pending: Sequence[str]
    stale: Sequence[str]
    list_age: int
    unattended: bool

    @property
    def by_hand(self) -> Sequence[str]:
        """The pending packages that no unattended run installs."""
        return [name for name in self.pending if not self.unattended or re.match(HELD_BACK, name)]

    @property
    def ok(self) -> bool:
        """True if nothing is left to do by hand."""
        return not self.by_hand and not self.stale and self.list_age < STALE

    def __str__(self) -> str:
        parts = [f"security updates are pending: {_some(self.pending)}"] if self.pending else []
        parts += [f"a restart is due: {_some(self.stale)} use replaced files"] if self.stale else []
        if self.list_age >= STALE:
            parts.append(f"its package lists are {self.list_age // 86400} days old")
        return "; ".join(parts) or "no security update is pending"

    def remedies(self) -> Iterator[str]:
        """Yield the commands for the work that no unattended run does."""
        on = f"homelab ssh {self.container} --"
        if self.list_age >= STALE:
            yield f"{on} apt-get -q update"
        if self.by_hand:
            yield f"{on} apt-get -q -y install --only-upgrade {' '.join(self.by_hand)}"
        if self.stale:
            yield f"{on} systemctl reboot"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def parse(container: str, answer: Result, unattended: bool) -> PatchLevel:
    """Return the patch level in the output of PROBE. Raises HomelabError for an unexpected format."""
    found: dict[str, list[str]] = {"lists": [], "pending": [], "stale": []}
    with expected_format(container, "read the pending security updates"):
        for line in answer.text.splitlines():
            kind, _, rest = line.partition(" ")
            found[kind].append(rest)
        pending, stale = (sorted(set(found[kind])) for kind in ("pending", "stale"))
        if not all(map(_PACKAGE.fullmatch, pending)):  # they become part of a command to paste
            raise ValueError("a line names no package")
        return PatchLevel(container, pending, stale, int(found["lists"][0]), unattended)


def patch_levels(session: Session) -> Mapping[str, PatchLevel | HomelabError]:
    """Return the patch level, or the error, of each container that was reached before: its host key is pinned."""
    pins, unattended = session.known_hosts.pins(), session.inventory.sources.security_updates

    def read(container: Container) -> PatchLevel | HomelabError:
        try:
            with session.connect(container, _CONNECT_DEADLINE) as host:
                return parse(container.name, host.run(PROBE), unattended)
        except HomelabError as error:
            return error

    reached = [each for each in session.inventory.containers if each.name in pins]
    return {name: each.result() for name, each in run_all({c.name: partial(read, c) for c in reached}).items()}
