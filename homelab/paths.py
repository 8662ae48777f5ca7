"""Paths of the bundled files, in a wheel or in the checkout, and of the user's state."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_data"


def bundled_path(name: str) -> Path:
    """Return the path of the bundled `templates`, `pipelines`, `requirements` or `inventory.yaml`, or below it."""
    return (_BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent) / name


def state_folder() -> Path:
    """Return the folder of the user's state (XDG_STATE_HOME)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "homelab"
