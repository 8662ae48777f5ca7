"""Files of the user's folders: each is read or named in an error; none is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homelab.errors import InputError
from homelab.local_files import files_below, read_within
from homelab.steps import Tree
from tests.support import respecting_modes


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "prices"
    (root / "scripts" / "sub").mkdir(parents=True)
    (root / "scripts" / "fetch.py").write_text("fetch")
    (root / "scripts" / "sub" / "a.py").write_text("a")
    (root / "common").mkdir()
    (root / "common" / "b.py").write_text("b")
    (tmp_path / "outside").mkdir()
    yield root
    for path in (root / "scripts" / "sub", root / "scripts"):
        path.chmod(0o755)


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder / "scripts")) for path in files_below(folder / "scripts", folder)]


def link(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "scripts" / name).symlink_to(to)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda folder: (folder / "scripts" / "sub").chmod(0), r"Cannot read .*/sub: Permission denied"),
        (lambda folder: (folder / "scripts" / "sub").chmod(0o600), r"Cannot read .*/sub/a\.py: Permission denied"),
        (lambda folder: (folder / "scripts").chmod(0o100), r"Cannot read .*/scripts: Permission denied"),
        (link("x.py", "missing.py"), r"Cannot read .*/x\.py: it is a link that leads to nothing"),
        (link("x.py", "x.py"), r"Cannot read .*/x\.py: its links lead in a circle"),
        (link("x", "../../outside"), r"Cannot install .*/x: it leads out of .*/prices"),
        (link("x.py", "/etc/hostname"), r"Cannot install .*/x\.py: it leads out of .*/prices"),
        (link("x", ".."), r"Cannot read .*/x/scripts: it is a link to a folder above it"),
        (link("sub/x", "."), r"Cannot read .*/sub/x: it is a link to a folder above it"),
        (link(os.fsdecode(b"b\xe9.py"), "fetch.py"), r"Cannot read .*/b\\udce9\.py: its name cannot be used"),
        (link("a\nb.py", "fetch.py"), r"(?s)Cannot read .*its name cannot be used"),
        (link("a\\b.py", "fetch.py"), r"Cannot read .*its name cannot be used"),
    ],
)
def test_file_that_cannot_be_read_is_named(folder: Path, change: Callable[[Path], None], error: str) -> None:
    change(folder)
    with respecting_modes(), pytest.raises(InputError, match=error):
        names(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _: None, ["fetch.py", "sub/a.py"]),
        (link("x", "../common"), ["fetch.py", "sub/a.py", "x/b.py"]),
        (link("x.py", "../common/b.py"), ["fetch.py", "sub/a.py", "x.py"]),
        (link(".#fetch.py", "me@machine.1234:1"), ["fetch.py", "sub/a.py"]),
    ],
)
def test_links_inside_of_the_folder_are_followed(
    folder: Path, change: Callable[[Path], None], found: list[str]
) -> None:
    change(folder)
    assert names(folder) == found


def test_ignored_files_are_not_read(folder: Path) -> None:
    (folder / "scripts" / "__pycache__").symlink_to("missing")
    (folder / "scripts" / "old.pyc").symlink_to("missing")
    assert set(Tree.of("", folder / "scripts", folder).files) == {"fetch.py", "sub/a.py"}


def test_missing_folder_has_no_files(tmp_path: Path) -> None:
    assert list(files_below(tmp_path / "missing")) == []


def test_file_without_read_permission_is_named(folder: Path) -> None:
    (folder / "scripts" / "fetch.py").chmod(0)
    with respecting_modes(), pytest.raises(InputError, match=r"Cannot read .*/fetch\.py: Permission denied"):
        read_within(folder / "scripts" / "fetch.py", folder)
