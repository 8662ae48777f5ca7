"""Replace a file at once: readers see the old or the new one, never half of one."""

from __future__ import annotations

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Replace a file by one with this text. Raises OSError, and then keeps the old one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
