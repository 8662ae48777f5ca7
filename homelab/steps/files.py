"""Directories, files, and whole trees of files."""

from __future__ import annotations

import difflib
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from homelab.distributions import CA_BUNDLE
from homelab.host import Result, argv
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.batching import Script, ScriptStep

_KEPT = 5  # how many of what was replaced are kept for each path


@dataclass(frozen=True, eq=False)
class Directory(ScriptStep):
    """A directory with an owner and a mode; what is in it does not matter."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755

    @property
    def title(self) -> str:
        """See Step."""
        return f"directory {self.path}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("directory", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("stat", "-c", "%F %U:%G %a", self.path),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("does not exist")
        wanted = f"directory {self.owner}:{self.group} {self.mode:o}"
        return None if answers[0].text == wanted else Pending(f"{answers[0].text} → {wanted}")

    def script(self) -> Script:
        """See Brief."""
        return Script(
            argv("install", "-d", "-o", self.owner, "-g", self.group, "-m", f"{self.mode:o}", self.path),
            f"making {self.path}",
        )


def keep(path: str, digest: str, new: str) -> str:
    """Shell text that keeps what is at `path` unless it came from us, and notes the hash of what comes now.

    `digest` is shell text that prints the hash of what is there, `new` is the hash of what comes; without one, nothing
    will stand there any more. What is there now is noted as well: a run that is killed before the new one takes its
    place must not lead the next one to think that somebody else wrote the old one, nor to keep it twice.
    """
    note, kept = quote(remote_paths.written(path)), quote(remote_paths.replaced(path))
    return "\n".join(
        [
            "was=",
            f"if [ -e {quote(path)} ]; then",
            f"    was=$({digest}) && was=${{was%% *}}",
            f"    last=$(ls -1 {kept} 2>/dev/null | tail -n 1)",  # by a run that was killed before it could note that
            f'    if [ "$was" != "{new}" ] && ! grep -qsxF "$was" {note} &&',
            f'        {{ [ -z "$last" ] || ! diff -rq {quote(path)} {kept}/"$last" >/dev/null; }}; then',
            f"        mkdir -p {kept}; rm -rf {kept}/.new; cp -a {quote(path)} {kept}/.new",
            f"        mv -T {kept}/.new {kept}/$(date -u +%Y%m%dT%H%M%SZ)",
            f'        ls -1 {kept} | head -n -{_KEPT} | while read -r each; do rm -rf {kept}/"$each"; done',
            "    fi",
            "fi",
            "\n".join(
                [
                    f'[ "$was" != {new} ] || was=',
                    f'if [ -n "$was" ] || ! grep -qsxF {new} {note}; then',
                    f"    mkdir -p {quote(remote_paths.written(path.rpartition('/')[0]))}",
                    f'    {{ echo {new}; [ -z "$was" ] || echo "$was"; }} >{note}.new; mv -fT {note}.new {note}',
                    "fi",
                ]
            )
            if new
            else f"rm -f {note}",
        ]
    )


def _whose(path: str, found: str, noted: Sequence[str]) -> str:
    """How a plan says whose work is replaced."""
    if found in noted:
        return "its content differs"
    return f"{'changed by hand' if noted else 'its content differs'}; kept in {remote_paths.replaced(path)}"


@dataclass(frozen=True, eq=False)
class File(ScriptStep):
    """A file with this content, owner and mode, replaced atomically. What was not from us is kept.

    `secret` files are compared by hash and never shown. `validate` is shell text that has to succeed on the new
    file (its path is in `$new`) before it takes its place.
    """

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False
    validate: str = ""
    triggered_by: Sequence[Step] = ()

    @property
    def title(self) -> str:
        """See Step."""
        return f"file {self.path}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("file", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        read = "sha256sum <" if self.secret else "cat "
        return (
            f"{argv('stat', '-c', '%U:%G %a', self.path)} && "
            f"{{ cat {quote(remote_paths.written(self.path))} || true; }}",
            f"{read}{quote(self.path)}",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        attributes, content = answers
        if not attributes.ok:
            return Pending("does not exist", self._diff(b""))
        shown, *noted = attributes.text.splitlines()
        digest = content.text[:64] if self.secret else hashlib.sha256(content.stdout).hexdigest()
        if digest != self._digest:
            why = _whose(self.path, digest, noted)
            return Pending(f"{why} (secret, not shown)" if self.secret else why, self._diff(content.stdout))
        wanted = f"{self.owner}:{self.group} {self.mode:o}"
        return None if shown == wanted else Pending(f"{shown} → {wanted}")

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def _diff(self, found: bytes) -> str:
        if self.secret:
            return ""
        old, new = (text.decode(errors="replace").splitlines(keepends=True) for text in (found, self.content))
        return "".join(
            line if line.endswith("\n") else line + "\n"
            for line in difflib.unified_diff(old, new, f"a{self.path}", f"b{self.path}")
        )

    def script(self) -> Script:
        """See Brief."""
        folder, _, name = self.path.rpartition("/")
        return Script(
            "\n".join(
                [
                    "set -e; umask 077",
                    f"rm -f {quote(f'{folder}/.{name}.homelab.')}??????*",  # what a killed run may have left
                    f"new=$(mktemp {quote(f'{folder}/.{name}.homelab.XXXXXX')})",
                    "trap 'rm -f \"$new\"' EXIT",
                    'cat >"$new"',
                    f'chown -h {quote(f"{self.owner}:{self.group}")} "$new"; chmod {self.mode:o} "$new"',
                    self.validate,
                    keep(self.path, f"sha256sum <{quote(self.path)}", self._digest),
                    f'sync "$new"; mv -fT "$new" {quote(self.path)}',
                ]
            ),
            f"writing {self.path}",
            self.content,
        )


@dataclass(frozen=True, eq=False)
class Certificate(File):
    """A CA in PEM that the whole machine trusts; `path` is below /usr/local/share/ca-certificates, ending in `.crt`."""

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("certificate", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step. The third one finds a file that a killed run wrote and nobody trusts yet."""
        # The last whole line of a certificate is part of its signature, and the bundle is what is written last.
        line = max(self.content.decode().strip().splitlines()[-3:-1], key=len)
        return (*super().probes(), argv("grep", "-qxF", "-e", line, CA_BUNDLE))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, trusted = answers
        return super().check(file) or (None if trusted.ok else Pending("is not trusted yet"))

    def script(self) -> Script:
        """See Brief."""
        written = super().script()
        return replace(written, text=f"{written.text}\numask 022; update-ca-certificates")


_HASHES = "find . -type f -printf '%P\\0' | xargs -0r sha256sum"


def _digest_of(hashes: Mapping[str, str]) -> str:
    """The hash of a whole tree: of the sorted lines that sha256sum prints for its files."""
    lines = sorted(f"{digest}  {name}\n".encode() for name, digest in hashes.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()


@dataclass(frozen=True, eq=False)
class Tree(ScriptStep):
    """A directory whose files are exactly these, all owned by root and readable by everyone."""

    path: str
    files: Mapping[str, bytes] = field(repr=False)
    executable: Sequence[str] = ()

    @classmethod
    def of(cls, path: str, source: Path, pattern: str = "**/*") -> Tree:
        """The files below a local folder, without what editors, Python and dbt leave there."""
        ignored = {"__pycache__", "target", "logs", "dbt_packages", ".user.yml", ".keep"}
        files = sorted(
            p
            for p in source.glob(pattern)
            if p.is_file() and not ignored & set(p.relative_to(source).parts) and p.suffix != ".pyc"
        )
        return cls(path, {str(p.relative_to(source)): p.read_bytes() for p in files})

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
        files, noted, tidy = answers
        if not files.ok:
            return Pending("does not exist", self._listing("+", self.files))
        found = {line[66:]: line[:64] for line in files.stdout.decode(errors="replace").splitlines()}
        wanted = self._wanted()
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        surplus = [name for name in found if name not in wanted]
        if not changed and not surplus:
            return None if tidy.ok else Pending("the one before was not cleared away")
        return Pending(
            f"{_whose(self.path, _digest_of(found), noted.text.split())}: "
            f"{len(changed)} files to write, {len(surplus)} to remove",
            self._listing("+", changed) + self._listing("-", surplus),
        )

    def _wanted(self) -> Mapping[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}

    def _hash_of_what_is_there(self) -> str:
        return f"cd {quote(self.path)} && {_HASHES} | LC_ALL=C sort | sha256sum"

    def _listing(self, sign: str, names: Sequence[str] | Mapping[str, bytes]) -> str:
        return "".join(f"{sign} {self.path}/{name}\n" for name in sorted(names))

    def script(self) -> Script:
        """See Brief."""
        new, old = f"{self.path}.new", f"{self.path}.old"
        # The swap leaves a moment without the directory; a run that falls into it fails and is repeated.
        return Script(
            "\n".join(
                [
                    "set -e",
                    argv("rm", "-rf", new, old),
                    argv("mkdir", "-p", new),
                    argv("tar", "-xf", "-", "-C", new, "--no-same-owner"),
                    f"(umask 077; {keep(self.path, self._hash_of_what_is_there(), _digest_of(self._wanted()))})",
                    f"if [ -e {quote(self.path)} ]; then {argv('mv', '-T', self.path, old)}; fi",
                    argv("mv", "-T", new, self.path),
                    argv("rm", "-rf", old),
                ]
            ),
            f"writing {self.path}",
            self._archive(),
        )

    def _archive(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o755 if name in self.executable else 0o644
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()
