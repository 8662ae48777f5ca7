"""A mirror of the distribution's archive, in the source files and formats that templates use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.distributions import APT_SOURCES
from homelab.host import Host, Result, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.files import File, keep_foreign
from homelab.steps.root_only import guarded

# The suites and components of Debian and Ubuntu themselves: `bookworm`, `noble-updates`, `main`.
_SUITE = re.compile(r"[a-z]+(-(updates|security|backports|proposed|proposed-updates))?")
_COMPONENTS = {"main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"}
_LINE = re.compile(
    r"(?P<before>deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?)(?P<uri>\S+)(?P<after>\s+(?P<suite>\S+)(?P<more>.*))", re.DOTALL
)
_FIELD = r"(?im)^{}:[ \t]*(.*(?:\n[ \t]+.*)*)"


@dataclass(frozen=True, slots=True)
class Archives:
    """The mirror of the distribution's packages, and of its security updates if that is mirrored, too."""

    main: str
    security: str | None = None

    def of(self, suites: Sequence[str], components: Sequence[str]) -> str | None:
        """Return the mirror's URL for these suites and components, or None if they are not mirrored."""
        if (
            not suites
            or not components
            or not _COMPONENTS.issuperset(components)
            or not all(map(_SUITE.fullmatch, suites))
        ):
            return None
        return self.security if all(suite.endswith("-security") for suite in suites) else self.main


def use_mirror(path: str, text: str, archives: Archives) -> str:
    """Return the text of a source file, of either format, with the distribution's archive replaced by the mirror."""
    if path.endswith(".sources"):
        return "".join(_stanza(part, archives) for part in re.split(r"(\n[ \t]*\n)", text))
    return "".join(_line(line, archives) for line in text.splitlines(keepends=True))


def _line(line: str, archives: Archives) -> str:
    if not (found := _LINE.match(line)):
        return line
    components = found["more"].partition("#")[0].split()
    url = archives.of([found["suite"]], components)
    return f"{found['before']}{url}{found['after']}" if url else line


def _stanza(text: str, archives: Archives) -> str:
    fields = {name: "\n".join(re.findall(_FIELD.format(name), text)).split() for name in ("Suites", "Components")}
    url = archives.of(fields["Suites"], fields["Components"])
    return re.sub(_FIELD.format("URIs"), lambda _: f"URIs: {url}", text) if url else text


@dataclass(frozen=True, eq=False)
class AptMirror(Step):
    """The mirror in apt's existing source files; the original files are restored once no step declares it."""

    archives: Archives

    @property
    def title(self) -> str:
        """See Step."""
        return "mirror of the distribution's archive"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("mirror", APT_SOURCES[0]),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return [probe for path in APT_SOURCES for probe in _probes(path)]

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        size = len(answers) // len(APT_SOURCES)
        found = {
            path: self._pending(path, answers[number * size : (number + 1) * size])
            for number, path in enumerate(APT_SOURCES)
        }
        differing = {path: pending for path, pending in found.items() if pending}
        if not differing:
            return None
        return Pending(
            "; ".join(f"{path}: {pending.reason}" for path, pending in differing.items()),
            "".join(pending.diff for pending in differing.values()),
        )

    def _pending(self, path: str, answers: Sequence[Result]) -> Pending | None:
        *file, original = answers
        return self._file(path, original).check(file) if original.ok else None

    def _file(self, path: str, original: Result) -> File:
        return File(
            path,
            use_mirror(path, original.stdout.decode(errors="surrogateescape"), self.archives).encode(
                errors="surrogateescape"
            ),
        )

    def apply(self, host: Host) -> None:
        """See Step. The original file is copied once, before it is written for the first time."""
        for path in APT_SOURCES:
            if self._pending(path, answers := host.batch(_probes(path))):
                original = quote(remote_paths.original(path))
                copy = [
                    f"set -e; umask 077; ! {_has_copy(path)} || exit 0",
                    f"mkdir -p $(dirname {original}); cp -a {quote(path)} {original}.new",
                    f"sync {original}.new; mv -fT {original}.new {original}",
                ]
                check(host, guarded("\n".join(copy), path), f"copy {path}")
                self._file(path, answers[-1]).apply(host)


def _probes(path: str) -> Sequence[str]:
    return (*File(path, b"").probes(), f"cat {quote(remote_paths.original(path))} || cat {quote(path)}")


def _has_copy(path: str) -> str:
    return f"[ -e {quote(remote_paths.original(path))} ]"


def is_mirrored() -> str:
    """Return shell text that succeeds while an original source file is not restored."""
    return " || ".join(map(_has_copy, APT_SOURCES))


def restore_sources() -> str:
    """Return shell text that restores the original source files. It may be killed at any point and run again."""
    return "\n".join(["set -e", *map(_restore, APT_SOURCES)])


def _restore(path: str) -> str:
    original, (folder, _, name) = quote(remote_paths.original(path)), path.rpartition("/")
    return "\n".join(
        [
            f"if {_has_copy(path)}; then",
            keep_foreign(path, f"sha256sum <{quote(path)}", ""),
            f"new=$(mktemp {quote(f'{folder}/.{name}.XXXXXX')}); trap 'rm -f \"$new\"' EXIT",
            f'cp -a {original} "$new"; sync "$new"; mv -fT "$new" {quote(path)}; rm -f {original}',
            "fi",
        ]
    )
