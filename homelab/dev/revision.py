"""A folder as it was at a git revision, in a temporary folder; git's working tree and index stay as they are."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homelab.errors import InputError

_TIMEOUT = 120  # seconds


@dataclass(frozen=True, slots=True)
class Revision:
    """A folder at a commit; `folder` is None if the commit does not have it."""

    commit: str
    folder: Path | None


@contextmanager
def at_revision(folder: Path, name: str) -> Iterator[Revision]:
    """Write the files of a folder at a revision to a temporary folder, during the block.

    Raises InputError if the folder is in no git repository, or if git does not know the revision.
    """
    commit = _git(folder, name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    top = _git(folder, name, "rev-parse", "--show-toplevel").strip()
    prefix = _git(folder, name, "rev-parse", "--show-prefix").strip()
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        _git(Path(top), name, "read-tree", commit, variables=index)
        paths = _git(Path(top), name, "ls-files", "-z", "--", prefix or ".", variables=index)
        words = ("checkout-index", "-z", "--stdin", f"--prefix={scratch}/tree/")
        _git(Path(top), name, *words, variables=index, stdin=paths)
        yield Revision(commit, Path(scratch, "tree", prefix) if paths else None)


def _git(folder: Path, revision: str, *words: str, variables: Mapping[str, str] | None = None, stdin: str = "") -> str:
    environment = {**os.environ, **(variables or {})}
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except FileNotFoundError:
        raise InputError(
            f"Cannot read the revision {revision}: git is not installed", "", "Install it: apt install git"
        ) from None
    if done.returncode:
        details = done.stderr.strip()[-1000:] or f"git does not know it in {folder}."
        raise InputError(
            f"Cannot read the revision {revision}: git refuses it",
            details,
            "Name a commit, a branch or a tag of the repository of this folder. A shallow clone lacks earlier commits: "
            "`git fetch --unshallow`",
        )
    return done.stdout
