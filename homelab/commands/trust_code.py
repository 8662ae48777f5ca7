"""`homelab trust code`: approve the present content of a local Python file."""

from __future__ import annotations

from pathlib import Path

from homelab.code_approvals import CodeApprovals, digest
from homelab.errors import InputError


def read(path: Path) -> bytes:
    """Return the file's content, to show and then to approve. Raises InputError."""
    if path.suffix != ".py":
        raise InputError(f"Cannot approve {path}: it is not a Python file", "", "Name a file such as services/NAME.py.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot approve {path}: {error.strerror}", "", "Correct the path.") from None


def trust_code(path: Path, content: bytes) -> str:
    """Approve this content of the file; return its SHA-256. Raises InputError."""
    CodeApprovals.of_user().approve(path, content)
    return digest(content)
