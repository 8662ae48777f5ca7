"""Approvals of local Python code: homelab runs a file next to an inventory only after the user approved its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from homelab.paths import state_folder
from homelab.private_files import read_mapping, write_private


def digest(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class CodeApprovals:
    """The approved files, each by its resolved path and the SHA-256 of its content.

    They are in the user's state folder, not next to the inventory: a repository cannot approve itself.
    """

    file: Path

    @classmethod
    def of_user(cls) -> CodeApprovals:
        """Return the approvals of the user who runs homelab."""
        return cls(state_folder() / "approved-code.json")

    def approves(self, path: Path, content: bytes) -> bool:
        """Check that this content of the file is approved. Raises InputError if the approvals cannot be read."""
        return self.read().get(str(path.resolve())) == digest(content)

    def approve(self, path: Path, content: bytes) -> None:
        """Approve this content of a file, in place of an earlier one."""
        approved = self.read() | {str(path.resolve()): digest(content)}
        write_private(self.file, json.dumps(approved, indent=2).encode())

    def read(self) -> dict[str, str]:
        """Return the approved digests by path. Raises InputError."""
        return read_mapping(
            self.file, "Delete it, then approve the code in your services again: `homelab trust code PATH`."
        )
