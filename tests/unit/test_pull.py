"""`homelab pull`: complete copies replace earlier ones, and nothing else is ever replaced."""

from __future__ import annotations

import io
import json
import resource
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from homelab.commands.pull import Format, Pulled, pull
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.paths import bundled_path
from homelab.pipeline_contract import EXIT
from homelab.runtime.deployed_pipelines import deployed_pipeline
from tests.support import NoHost, make_session

FILE = b"12345678DUCK" + b"\0" * 5000


class Download(NoHost):
    """A connection that answers a download in blocks of 7 bytes."""

    def __init__(self, answer: bytes, status: int) -> None:
        self._answer, self._status = answer, status

    def download(self, command: str, write: Callable[[bytes], object], *, timeout: float) -> Result:
        """See Connection.download."""
        for start in range(0, len(self._answer), 7):
            write(self._answer[start : start + 7])
        return Result(command, self._status, b"", b"error: cause")


def sent(content: bytes) -> bytes:
    return json.dumps({"size": len(content)}).encode() + b"\n" + content


def pulled(target: Path, answer: bytes, kind: Format = "duckdb", status: int = 0) -> Pulled:
    session = make_session(load([bundled_path("inventory.yaml")]), connector=lambda *_: Download(answer, status))
    return pull(session, deployed_pipeline(session.inventory), target, kind)


def tar(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def test_file_is_copied_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "new" / "weather.duckdb"
    for content in (FILE, FILE * 2):
        assert pulled(target, sent(content)).size == len(content)
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_parquet_files_replace_those_of_an_earlier_pull(tmp_path: Path) -> None:
    target = tmp_path / "marts"
    pulled(target, sent(tar(**{"a.parquet": b"1", "b.parquet": b"2"})), "parquet")
    assert pulled(target, sent(tar(**{"a.parquet": b"3"})), "parquet").files == ["a.parquet"]
    assert [(path.name, path.read_bytes()) for path in target.iterdir()] == [("a.parquet", b"3")]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (sent(FILE)[:-1], 0, "the copy is incomplete"),
        (sent(FILE), 1, "the copy is incomplete"),
        (sent(FILE) + b"x", 0, "the answer has an unexpected format"),
        (b"Welcome to this machine\n" + FILE, 0, "the answer has an unexpected format"),
        (b"x" * 10_000, 0, "the answer has an unexpected format"),
        (b'{"size": -5}\n', 0, "the answer has an unexpected format"),
        (b'{"size": []}\n', 0, "the answer has an unexpected format"),
        (b'{"size": Infinity}\n', 0, "the answer has an unexpected format"),
        (b"", EXIT.nothing_published, "there are none yet"),
    ],
)
def test_incomplete_answer_replaces_nothing(tmp_path: Path, answer: bytes, status: int, expected: str) -> None:
    target = tmp_path / "weather.duckdb"
    target.write_bytes(FILE)
    with pytest.raises(HomelabError, match=expected):
        pulled(target, answer, status=status)
    assert target.read_bytes() == FILE
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["../a.parquet", "/a.parquet", "a.sh", "b/a.parquet"])
def test_other_files_in_the_answer_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomelabError, match="unexpected format"):
        pulled(tmp_path / "marts", sent(tar(**{name: b"1"})), "parquet")
    assert list(tmp_path.iterdir()) == []


def test_links_in_the_answer_are_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as target:
        member = tarfile.TarInfo("a.parquet")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        target.addfile(member)
    with pytest.raises(HomelabError, match="unexpected format"):
        pulled(tmp_path / "marts", sent(archive.getvalue()), "parquet")
    assert list(tmp_path.iterdir()) == []


def test_sparse_file_in_the_answer_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as target:
        member = tarfile.TarInfo("a.parquet")
        member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 30)}
        target.addfile(member)
    with pytest.raises(HomelabError, match="unexpected format"):
        pulled(tmp_path / "marts", sent(archive.getvalue()), "parquet")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named(tmp_path: Path) -> None:
    target = tmp_path / "weather.duckdb"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(HomelabError, match="Cannot pull the marts: File too large"):
            pulled(target, sent(FILE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_other_file_or_folder_is_not_replaced(tmp_path: Path, kind: Format) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="not an earlier pull in this format"):
            pulled(target, sent(FILE), kind)
    assert (tmp_path / "notes.txt").read_text() == "mine"
