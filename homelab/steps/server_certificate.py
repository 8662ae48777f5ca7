"""Server certificates of the lab's CA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from homelab.certificates import Authority, Description, Names
from homelab.host import Host, Result, argv
from homelab.model import ManagedResource, Pending, Step
from homelab.steps.files import File


@dataclass(frozen=True, eq=False)
class ServerCertificate(Step):
    """A private key and its certificate by the lab's CA, in one file that only its owner and `group` can read.

    It is issued again, with a new key, if the names or the CA change, and in the last third of its lifetime. The key is
    made for the container, and homelab keeps no copy of it. Services name the file twice: as certificate and as key.
    """

    path: str
    authority: Authority
    names: Names
    group: str = "root"
    owner: str = "root"
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def title(self) -> str:
        """See Step."""
        return f"certificate {self.path}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("file", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step. The last one reads the description: neither the key nor its hash would show the names."""
        return (*self._file("").probes(), argv("head", "-n", "1", self.path))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, description = answers
        attributes, found = file
        if not attributes.ok:
            return Pending("does not exist")
        owner_and_mode, *written = attributes.text.splitlines()
        # Only a file that homelab wrote is known to contain the certificate that its first line describes.
        if found.text[:64] not in written:
            return Pending("changed by hand")
        if reason := self._reason(description.text):
            return Pending(reason)
        wanted = f"{self.owner}:{self.group} 640"
        return None if owner_and_mode == wanted else Pending(f"{owner_and_mode} → {wanted}")

    def _reason(self, line: str) -> str:
        """Return the reason to issue it again, or an empty text."""
        try:
            found = Description.read(line)
        except ValueError:
            return "has no description"
        if found.issuer != self.authority.description.issuer:
            return "is of another CA"
        if found.names != self.names:
            return f"{found.names} → {self.names}"
        return f"is renewed: it expires on {found.until:%Y-%m-%d}" if found.expires_soon(self.now) else ""

    def apply(self, host: Host) -> None:
        """See Step."""
        self._file(self.authority.issue(self.names, self.now)).apply(host)

    def _file(self, content: str) -> File:
        return File(self.path, content.encode(), self.owner, self.group, 0o640, secret=True)
