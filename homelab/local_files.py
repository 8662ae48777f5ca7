"""The files of the user's folders: one that cannot be read is named in an error; new ones are written all, or none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from homelab.errors import InputError

_CORRECT = "Correct its permissions, or remove it from the folder."
_EMACS_LOCK = ".#"  # prefix of the dangling link next to a file that is open in Emacs


def read_within(path: Path, folder: Path | None) -> bytes:
    """Return the content of a file. Raises InputError if it cannot be read, or is a link that leads out of the folder.

    Everyone in the container can read a tree: a link in a folder of others would give away a secret of this machine.
    """
    _require_within(path, folder)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def files_below(
    source: Path, within: Path | None = None, ignored: Callable[[str], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield the files of a folder and of those below it, in order; links are followed. A missing folder has none.

    `ignored` decides by the name of a file or a folder. Raises InputError for a folder that cannot be read, a link that
    leads to nothing, to a folder above it or out of `within`, and a name that cannot be in a tree.
    """
    if os.path.lexists(source):
        _require_within(source, within)
        yield from _files_below(source, within, ignored, ())


def _files_below(
    folder: Path, within: Path | None, ignored: Callable[[str], bool], above: tuple[Path, ...]
) -> Iterator[Path]:
    resolved = folder.resolve()
    if resolved in above:
        raise InputError(
            f"Cannot read {folder}: it is a link to a folder above it", f"It is {resolved}.", "Remove the link."
        )
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from None
    for name in names:
        if ignored(name) or name.startswith(_EMACS_LOCK):
            continue
        path = folder / name
        _require_usable_name(path)
        _require_within(path, within)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise _unreadable(path, error) from None
        if stat.S_ISDIR(mode):
            yield from _files_below(path, within, ignored, (*above, resolved))
        elif stat.S_ISREG(mode):
            yield path


def _require_within(path: Path, folder: Path | None) -> None:
    try:
        inside = not folder or path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # Python 3.11 raises RuntimeError for links in a circle
        raise InputError(f"Cannot read {path}: its links lead in a circle", "", _CORRECT) from None
    if not inside:
        raise InputError(
            f"Cannot install {path}: it leads out of {folder}",
            f"It is {path.resolve()}.",
            "Replace the link with a copy.",
        )


def _require_usable_name(path: Path) -> None:
    """Raise InputError for a name that tar or sha256sum would write in another way."""
    if not path.name.isprintable() or "\\" in path.name:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise InputError(
            f"Cannot read {shown}: its name cannot be used",
            "A name has only printable UTF-8 characters, and no backslash.",
            "Rename it, or remove it from the folder.",
        )


def _unreadable(path: Path, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return InputError(
            f"Cannot read {path}: it is a link that leads to nothing",
            f"It is {path.readlink()}.",
            "Correct the link, or remove it from the folder.",
        )
    return InputError(f"Cannot read {path}: {error.strerror}", "", _CORRECT)


def write_new(files: Mapping[Path, bytes], action: str) -> None:
    """Write files and their folders, all or none. Raises InputError `Cannot ACTION: cause`."""
    made: list[Path] = []
    try:
        for path, content in files.items():
            _make_folders(path.parent, made)
            with path.open("xb") as file:
                made.append(path)
                file.write(content)
    except BaseException as error:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"Cannot {action}: {error.strerror or error}",
            f"{error.filename}." if error.filename else "",
            "Correct the folder or its permissions, then run the same command again.",
        ) from error


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it; add the new ones to `made`. Raises OSError."""
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            if os.path.lexists(each):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(each))
            each.mkdir()
            made.append(each)
