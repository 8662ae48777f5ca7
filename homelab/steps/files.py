"""Directories, files, and certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

from homelab.distributions import CA_BUNDLE
from homelab.host import Result, argv
from homelab.model import ManagedResource, Pending, Step
from homelab.shortening import file_diff
from homelab.steps import remote_paths
from homelab.steps.batching import Script, ScriptStep
from homelab.steps.root_only import refuse_link

_COPIES = 5  # of replaced foreign content, for each path
_LISTED = 10  # names of kept files in one line


@dataclass(frozen=True, eq=False)
class Directory(ScriptStep):
    """A directory with an owner and a mode; its content is not checked."""

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
        """See ScriptStep."""
        create = argv("install", "-d", "-o", self.owner, "-g", self.group, "-m", f"{self.mode:o}", self.path)
        return Script(f"{refuse_link(self.path)}\n{create}", f"create {self.path}", path=self.path)


def keep_foreign(path: str, hash_command: str, new: str) -> str:
    """Return shell text that copies foreign content at `path` and records the hash of the new content.

    `hash_command` prints the hash of the present content; `new` is the hash of the new content, or "" if `path` is
    removed. The present hash is recorded, too: after a kill before the new content is in place, the next run must
    neither take the present content for foreign nor copy it twice.
    """
    written, copies = quote(remote_paths.written(path)), quote(remote_paths.replaced(path))
    record = [
        f'[ "$found" != {new} ] || found=',
        f'if [ -n "$found" ] || ! grep -qsxF {new} {written}; then',
        f"    mkdir -p {quote(remote_paths.written(path.rpartition('/')[0]))}",
        f'    {{ echo {new}; [ -z "$found" ] || echo "$found"; }} >{written}.new; mv -fT {written}.new {written}',
        "fi",
    ]
    return "\n".join(
        [
            "found=",
            f"if [ -e {quote(path)} ]; then",
            f"    found=$({hash_command}) && found=${{found%% *}}",
            f"    last=$(ls -1 {copies} 2>/dev/null | tail -n 1)",  # a killed run may have copied it already
            f'    if [ "$found" != "{new}" ] && ! grep -qsxF "$found" {written} &&',
            f'        {{ [ -z "$last" ] || ! diff -rq {quote(path)} {copies}/"$last" >/dev/null; }}; then',
            f"        mkdir -p {copies}; rm -rf {copies}/.new; cp -a {quote(path)} {copies}/.new",
            f"        mv -T {copies}/.new {copies}/$(date -u +%Y%m%dT%H%M%SZ)",
            f'        ls -1 {copies} | head -n -{_COPIES} | while read -r each; do rm -rf {copies}/"$each"; done',
            "    fi",
            "fi",
            *(record if new else [f"rm -f {written}"]),
        ]
    )


def kept_files(path: str, names: Sequence[str], found: str, written: Sequence[str]) -> str:
    """Return the files at `path` that a user has changed or added and the folder of their copies; "" if there are none.

    `found` and `written` are the hashes of `difference_reason`.
    """
    if found in written or not names:
        return ""
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return f"{listed}: kept in {remote_paths.replaced(path)}"


def difference_reason(path: str, found: str, written: Sequence[str]) -> str:
    """Return why content with the hash `found` is replaced; `written` are the hashes that homelab wrote to `path`."""
    if found in written:
        return "its content differs"
    return f"{'changed by hand' if written else 'its content differs'}; kept in {remote_paths.replaced(path)}"


@dataclass(frozen=True, eq=False)
class File(ScriptStep):
    """A file with this content, owner and mode, replaced atomically. Foreign content is copied first.

    `secret` files are compared by hash and never shown. `validate` is shell text that has to succeed on the new file
    (its path is in `$new`) before it is put in place.
    """

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False
    validate: str = ""
    triggered_by: Sequence[Step] = ()
    part: str = ""

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
            # Without a process for it: a deploy reads a hundred of these.
            f'{{ while read -r line; do echo "$line"; done <{quote(remote_paths.written(self.path))} || true; }}',
            f"{read}{quote(self.path)}",
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        attributes, content = answers
        if not attributes.ok:
            return Pending("does not exist", self._diff(b""))
        owner_and_mode, *written = attributes.text.splitlines()
        found = content.text[:64] if self.secret else hashlib.sha256(content.stdout).hexdigest()
        if found != self._hash:
            reason = difference_reason(self.path, found, written)
            return Pending(
                f"{reason} (secret, not shown)" if self.secret else reason,
                self._diff(content.stdout),
                kept=kept_files(self.path, [self.path], found, written),
            )
        wanted = f"{self.owner}:{self.group} {self.mode:o}"
        return None if owner_and_mode == wanted else Pending(f"{owner_and_mode} → {wanted}")

    @property
    def _hash(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def _diff(self, found: bytes) -> str:
        return "" if self.secret else file_diff(self.path, found, self.content)

    def script(self) -> Script:
        """See ScriptStep."""
        folder, _, name = self.path.rpartition("/")
        return Script(
            "\n".join(
                [
                    "set -e; umask 077",
                    f"rm -f {quote(f'{folder}/.{name}.homelab.')}??????*",  # from a killed run
                    f"new=$(mktemp {quote(f'{folder}/.{name}.homelab.XXXXXX')})",
                    "trap 'rm -f \"$new\"' EXIT",
                    'cat >"$new"',
                    f'chown -h {quote(f"{self.owner}:{self.group}")} "$new"; chmod {self.mode:o} "$new"',
                    self.validate,
                    keep_foreign(self.path, f"sha256sum <{quote(self.path)}", self._hash),
                    f'sync "$new"; mv -fT "$new" {quote(self.path)}',
                ]
            ),
            f"write {self.path}",
            self.content,
            self.path,
        )


@dataclass(frozen=True, eq=False)
class Certificate(File):
    """A CA in PEM that the whole machine trusts; `path` is below /usr/local/share/ca-certificates, ending in `.crt`."""

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("certificate", self.path),)

    def probes(self) -> Sequence[str]:
        """See Step. The third probe finds a file that a killed run wrote without adding it to the bundle."""
        # The last full line of a certificate is part of its signature, and the bundle is written last.
        line = max(self.content.decode().strip().splitlines()[-3:-1], key=len)
        return (*super().probes(), argv("grep", "-qxF", "-e", line, CA_BUNDLE))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        *file, trusted = answers
        return super().check(file) or (None if trusted.ok else Pending("is not trusted yet"))

    def script(self) -> Script:
        """See ScriptStep."""
        script = super().script()
        return replace(script, text=f"{script.text}\numask 022; update-ca-certificates")
