"""Private files: mode 0600, in folders of mode 0700 that git ignores. A damaged one is an error that names it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homelab.errors import InputError

STATE_FOLDER = ".homelab"  # next to the inventory; also holds the user's secret files


def private_folder(folder: Path) -> None:
    """Create a folder of mode 0700 that git ignores. An existing one is changed only if it is a state folder.

    Raises InputError if that is not possible.
    """
    own = _state_folders(folder)
    with _writing(folder):
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
    """Replace a file atomically, with mode 0600, in a folder of mode 0700 that git ignores.

    Raises InputError if that is not possible.
    """
    private_folder(path.parent)
    with _writing(path):
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}", "", "Make it writable, then run the same command again."
        ) from error


def damaged(path: Path, cause: str, resolution: str) -> InputError:
    """Return the error for a damaged file; `cause` quotes nothing of it."""
    return InputError(f"Cannot read {path}: it is damaged", cause, resolution)


def read_private(path: Path, resolution: str) -> str | None:
    """Return the text of a file, None if it is missing. Raises InputError if it cannot be read, or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise damaged(path, "It is not UTF-8 text.", resolution) from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}", "", resolution) from error


def read_mapping(path: Path, resolution: str) -> dict[str, Any]:
    """Return the JSON object in a file, empty if the file is missing. Raises InputError as `read_private` does."""
    text = read_private(path, resolution)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path, "It is not JSON.", resolution) from None
    if not isinstance(found, dict):
        raise damaged(path, "It is not a JSON object.", resolution)
    return found
