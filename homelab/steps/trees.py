"""Trees: directories with exactly the given files."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from homelab.host import Result, argv
from homelab.local_files import files_below, read_within
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.batching import Script, ScriptStep
from homelab.steps.files import difference_reason, keep_foreign, kept_files

_HASHES = "find . -type f -printf '%P\\0' | xargs -0r sha256sum"
_IGNORED = {"__pycache__", "target", "logs", "dbt_packages", ".user.yml", ".keep"}


@dataclass(frozen=True, eq=False)
class Tree(ScriptStep):
    """A directory with exactly these files, owned by root and readable by everyone.

    `validate` is shell text that has to succeed on the new directory (its path is in `$new`) before it is put in place.
    """

    path: str
    files: Mapping[str, bytes] = field(repr=False)
    validate: str = ""
    triggered_by: Sequence[Step] = ()
    part: str = ""

    @classmethod
    def of(cls, path: str, source: Path, within: Path | None = None) -> Tree:
        """Return the tree of a local folder, without files that editors, Python and dbt leave there.

        Raises InputError as `files_below` and `read_within` do, for a folder in `within`.
        """
        files = files_below(source, within, is_left_over)
        return cls(path, {str(p.relative_to(source)): read_within(p, within) for p in files})

    @property
    def title(self) -> str:
        """See Step."""
        return f"tree {self.path}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("tree", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (
            f"cd {quote(self.path)} && {_HASHES}",
            f"cat {quote(remote_paths.written(self.path))}",
            f"[ ! -e {quote(f'{self.path}.old')} ]",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        files, written, tidy = answers
        if not files.ok:
            return Pending("does not exist", self._listing("+", self.files))
        found = {line[66:]: line[:64] for line in files.stdout.decode(errors="replace").splitlines()}
        wanted = self._hashes()
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        surplus = [name for name in found if name not in wanted]
        if not changed and not surplus:
            return None if tidy.ok else Pending("the previous version is still there")
        present, ours = _tree_hash(found), written.text.split()
        theirs = sorted([*(name for name in changed if name in found), *surplus])
        return Pending(
            f"{difference_reason(self.path, present, ours)}: {len(changed)} files to write, {len(surplus)} to remove",
            self._listing("+", changed) + self._listing("-", surplus),
            kept=kept_files(self.path, [f"{self.path}/{name}" for name in theirs], present, ours),
        )

    def _hashes(self) -> Mapping[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}

    def _listing(self, sign: str, names: Sequence[str] | Mapping[str, bytes]) -> str:
        return "".join(f"{sign} {self.path}/{name}\n" for name in sorted(names))

    def script(self) -> Script:
        """See ScriptStep."""
        new, old = f"{self.path}.new", f"{self.path}.old"
        # The directory is missing for a moment during the swap; a pipeline run that meets it fails and is retried.
        return Script(
            "\n".join(
                [
                    "set -e",
                    argv("rm", "-rf", new, old),
                    argv("mkdir", "-p", new),
                    argv("tar", "-xf", "-", "-C", new, "--no-same-owner"),
                    *self._validation(new),
                    f"(umask 077; {keep_foreign(self.path, tree_hash_command(self.path), _tree_hash(self._hashes()))})",
                    f"if [ -e {quote(self.path)} ]; then {argv('mv', '-T', self.path, old)}; fi",
                    argv("mv", "-T", new, self.path),
                    argv("rm", "-rf", old),
                ]
            ),
            f"write {self.path}",
            self._archive(),
            self.path,
        )

    def _validation(self, new: str) -> Sequence[str]:
        remove = argv("rm", "-rf", new)
        return (f"new={quote(new)}", f"({self.validate}) || {{ {remove}; exit 1; }}") if self.validate else ()

    def _archive(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o644
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def is_left_over(name: str) -> bool:
    """Return True for the name of a file or a folder that editors, Python or dbt leave in a folder."""
    return name in _IGNORED or name.endswith(".pyc")


def tree_hash_command(path: str) -> str:
    """Return shell text that prints the hash of the tree at `path`."""
    return f"cd {quote(path)} && {_HASHES} | LC_ALL=C sort | sha256sum"


def _tree_hash(hashes: Mapping[str, str]) -> str:
    """Return the hash of a whole tree: of the sorted lines that sha256sum prints for its files."""
    lines = sorted(f"{digest}  {name}\n".encode() for name, digest in hashes.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()
