"""`homelab pull`: copy the published marts to this machine, as a DuckDB file or as Parquet files."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Literal

from homelab.errors import HomelabError, InputError
from homelab.host import UNREADABLE, argv
from homelab.model.stages import ANALYTICS
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import SHARED_SCRIPTS
from homelab.progress import StatusUpdate
from homelab.runtime.deployed_pipelines import DeployedPipeline
from homelab.runtime.session import Session

Format = Literal["duckdb", "parquet"]
_PAUSE = 120.0  # seconds between two blocks; Parquet files are written before the first one
_HEADER_MAX = 200
_MAGIC = b"DUCK"  # bytes 8 to 11 of a DuckDB file
_PARQUET = re.compile(r"[A-Za-z0-9_]+\.parquet")


@dataclass(frozen=True, slots=True)
class Pulled:
    """The copied files and their size in bytes."""

    path: str
    files: Sequence[str]
    size: int

    def __str__(self) -> str:
        return f"{self.path}: {', '.join(self.files)}; {self.size / 1e6:.1f} MB"


def pull(session: Session, pipeline: DeployedPipeline, target: Path, kind: Format = "duckdb") -> Pulled:
    """Copy a pipeline's published marts to a file (`duckdb`), or to a folder with a file for each mart (`parquet`).

    A file of an earlier pull is replaced atomically. Raises InputError if the target holds anything else, HomelabError
    if nothing is published yet or the copy is incomplete.
    """
    _check_target(target, kind)
    container = session.inventory.container_of(ANALYTICS)
    script = argv("python", f"{SHARED_SCRIPTS}/export.py", "--database", pipeline.published, "--format", kind)
    with (
        session.connect(container) as host,
        session.progress.step(container.name, "pull the marts") as report,
        _new_folder(target) as folder,
        (folder / "received").open("wb", buffering=0) as file,
    ):
        received = _Receiver(file, report)
        result = host.download(pipeline.run(script), received.write, timeout=_PAUSE)
        if result.status == EXIT.nothing_published:
            raise HomelabError(
                "Cannot pull the marts: there are none yet",
                "No build of the pipeline was published.",
                f"Wait for the next run, or start one with `homelab pipeline run {pipeline.name}`.",
            )
        if not result.ok or received.missing:
            details = result.stderr.decode(errors="replace").strip()[-1000:]
            raise HomelabError(
                f"Cannot pull the marts from {container.name}: the copy is incomplete",
                details or f"{received.missing} bytes are missing.",
                "Run the same command again; nothing was replaced.",
            )
        file.close()
        if kind == "parquet":
            files = _unpack(folder / "received", folder / "files")
            if target.exists():
                target.rename(folder / "replaced")
            (folder / "files").rename(target)
        else:
            files = [target.name]
            (folder / "received").replace(target)
    return Pulled(str(target), files, received.size)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Create a folder next to the target, on the same file system, for the duration of the block."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise InputError(f"Cannot pull to {target}: {error.strerror}", "", "Choose another path with --to.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _check_target(target: Path, kind: Format) -> None:
    """Refuse to replace anything but an earlier pull."""
    if kind == "duckdb" and target.is_file():
        with target.open("rb") as file:
            ours = file.read(12)[8:] == _MAGIC
    elif kind == "parquet" and target.is_dir():
        ours = all(_PARQUET.fullmatch(path.name) for path in target.iterdir())
    else:
        ours = not target.exists()
    if not ours:
        raise InputError(
            f"Cannot pull to {target}: it is not an earlier pull in this format",
            "Homelab replaces only a DuckDB file, or a folder of Parquet files.",
            "Choose another path with --to.",
        )


@dataclass
class _Receiver:
    """A file that is received in blocks, after a line with its size."""

    file: FileIO
    report: StatusUpdate
    size: int = -1
    received: int = 0
    header: bytearray = field(default_factory=bytearray)

    @property
    def missing(self) -> int:
        """The number of missing bytes; 0 for a complete file."""
        return self.size - self.received

    def write(self, block: bytes) -> None:
        """Store a block. Raises HomelabError for a header of another format, or for more bytes than announced."""
        if self.size < 0:
            self.header += block
            line, end, block = bytes(self.header).partition(b"\n")
            if not end and len(line) <= _HEADER_MAX:
                return
            with suppress(*UNREADABLE, OverflowError):
                self.size = int(json.loads(line)["size"])
        self.received += len(block)
        if self.size < 0 or self.received > self.size:
            raise _unexpected("It has no size, or more bytes than its size")
        try:
            left = memoryview(block)
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise HomelabError(
                f"Cannot pull the marts: {error.strerror}",
                f"{self.file.name}; {self.received} of {self.size} bytes were received.",
                "Free some space, or choose another disk with --to.",
            ) from error
        self.report(f"{self.received / 1e6:.0f} of {self.size / 1e6:.0f} MB")


def _unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack Parquet files into a new folder, and return their names. Raises HomelabError for any other member."""
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                # A sparse file of a tampered container could fill this machine's disk.
                plain = member.isreg() and not member.issparse() and _PARQUET.fullmatch(member.name)
                content = tar.extractfile(member) if plain else None
                if content is None:
                    raise tarfile.TarError(f"It has {member.name!r}, not only Parquet files")
                with (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as error:
        raise _unexpected(str(error)) from None
    return sorted(path.name for path in folder.iterdir())


def _unexpected(details: str) -> HomelabError:
    return HomelabError(
        "Cannot pull the marts: the answer has an unexpected format",
        f"{details}. The container may have been tampered with.",
        "Run `homelab deploy`, then try again.",
    )
