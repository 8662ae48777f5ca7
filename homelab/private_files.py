"""Private files: mode 0600, in folders of mode 0700 that git ignores."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

STATE_FOLDER = ".homelab"  # next to the inventory; also holds the user's secret files


def private_folder(folder: Path) -> None:
    """Create a folder of mode 0700 that git ignores. An existing one is changed only if it is a state folder."""
    own = _state_folders(folder)
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700)
        own = own or [folder]
    for each in own:
        if each.stat().st_mode & 0o077 and each.stat().st_uid == os.geteuid():
            each.chmod(0o700)
        if not (each / ".gitignore").exists():
            (each / ".gitignore").write_text("*\n")


def _state_folders(folder: Path) -> list[Path]:
    """Return the folders from `.homelab` down to this one; none if it is elsewhere."""
    chain = [folder, *folder.parents]
    names = [each.name for each in chain]
    return chain[names.index(STATE_FOLDER) :: -1] if STATE_FOLDER in names else []


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically, with mode 0600, in a folder of mode 0700 that git ignores."""
    private_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
