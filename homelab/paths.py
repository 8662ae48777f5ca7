"""Paths of the bundled files: in a wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_data"


def bundled_path(name: str) -> Path:
    """Return the path of the bundled `templates`, `pipeline`, `requirements` or `inventory.yaml`."""
    return (_BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent) / name
