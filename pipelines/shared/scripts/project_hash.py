"""The hash of a dbt project's files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_CODE = ("*.sql", "*.csv", "dbt_project.yml")


def fingerprint(project: Path, *settings: str, patterns: Sequence[str] = _CODE) -> str:
    """Hash the files of these patterns, by default those that determine the models' content, and the settings."""
    digest = hashlib.sha256("\0".join(settings).encode())
    for path in sorted(path for pattern in patterns for path in project.rglob(pattern)):
        digest.update(f"\0{path.relative_to(project)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
