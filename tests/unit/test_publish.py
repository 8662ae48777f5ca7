"""Publishing: readers see a complete file at every moment, also when the copy is killed at any point."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.scripts import SHARED_SCRIPTS

import publish  # isort: skip

SIZE = 1 << 20
OPERATIONS = ("open", "os.rename", "os.remove", "os.chmod", "os.symlink")


def content(version: int) -> bytes:
    """Return the bytes of a version of the file."""
    return bytes([version]) * SIZE


def killed_at(number: int, source: Path, published: Path) -> bool:
    """Publish in a fork that ends before its file operation of this number, or in the middle of the copy for 0."""
    child = os.fork()
    if not child:
        left = number

        def end(event: str, _: object) -> None:
            nonlocal left
            left -= event in OPERATIONS
            if left == 0:
                os._exit(9)

        def half(_: object, target: Path) -> None:
            target.write_bytes(source.read_bytes()[: SIZE // 2])
            os._exit(9)

        if number:
            sys.addaudithook(end)
        else:
            shutil.copyfile = half  # type: ignore[assignment]
        publish.publish(source, published)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_publication_that_is_killed_leaves_the_previous_file_or_the_new_one(tmp_path: Path) -> None:
    source, published = tmp_path / "warehouse", tmp_path / "published.duckdb"
    source.write_bytes(content(0))
    publish.publish(source, published)
    version = kills = 0
    while True:
        source.write_bytes(content(version + 1))
        if not killed_at(kills, source, published):
            break
        kills += 1
        found = published.read_bytes()
        assert found in (content(version), content(version + 1)), f"killed at operation {kills}"
        version = found[0]
        for path in tmp_path.glob("published-*.duckdb"):
            assert path.read_bytes() in [content(each) for each in range(version + 2)], path
    assert kills > 8
    assert Path(publish.__file__).parent == SHARED_SCRIPTS
    assert published.read_bytes() == content(version + 1)
    assert len(list(tmp_path.iterdir())) == 2 + publish.KEPT, "the leftovers are removed"


@pytest.mark.parametrize("publications", range(1, 6))
def test_slow_copy_of_the_published_file_is_whole(publications: int, tmp_path: Path) -> None:
    source, published = tmp_path / "warehouse", tmp_path / "published.duckdb"
    source.write_bytes(content(0))
    publish.publish(source, published)
    with published.open("rb") as reader:
        copy = reader.read(SIZE // 2)
        for version in range(1, 1 + publications):
            source.write_bytes(content(version))
            publish.publish(source, published)
        copy += reader.read()
    assert copy == content(0)
    assert published.read_bytes() == content(publications)
