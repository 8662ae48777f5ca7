"""Where the files that travel with the package are: in a wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_data"


def bundled_path(name: str) -> Path:
    """The path of `templates`, `pipeline`, `requirements` or `inventory.yaml` as shipped."""
    return (_BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent) / name
