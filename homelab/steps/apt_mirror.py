"""A mirror of the distribution's own archive, in whatever files and form a template names that archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.distributions import APT_SOURCES
from homelab.host import Host, Result, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.files import File, keep

# What belongs to Debian or Ubuntu itself: `bookworm`, `noble-updates`, with their components and no others.
_SUITE = re.compile(r"[a-z]+(-(updates|security|backports|proposed|proposed-updates))?")
_COMPONENTS = {"main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"}
_LINE = re.compile(
    r"(?P<before>deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?)(?P<uri>\S+)(?P<after>\s+(?P<suite>\S+)(?P<more>.*))", re.DOTALL
)
_FIELD = r"(?im)^{}:[ \t]*(.*(?:\n[ \t]+.*)*)"


@dataclass(frozen=True, slots=True)
class Archives:
    """Where the distribution's packages come from instead; its security updates too, if that says so."""

    main: str
    security: str | None = None

    def of(self, suites: Sequence[str], components: Sequence[str]) -> str | None:
        """The URL instead of that of these suites and components; None if it is to stay."""
        if (
            not suites
            or not components
            or not _COMPONENTS.issuperset(components)
            or not all(map(_SUITE.fullmatch, suites))
        ):
            return None
        return self.security if all(suite.endswith("-security") for suite in suites) else self.main


def use_mirror(path: str, text: str, archives: Archives) -> str:
    """A file of apt's sources, of either form, with the distribution's own archive replaced and all else as it is."""
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
    """apt's own files name the mirror, those that are there; what stood there comes back when no step wants it so."""

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
        named = {path: pending for path, pending in found.items() if pending}
        return (
            Pending(
                "; ".join(f"{path}: {pending.reason}" for path, pending in named.items()),
                "".join(pending.diff for pending in named.values()),
            )
            if named
            else None
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
        """See Step. What stood there is kept once, before anything is written."""
        for path in APT_SOURCES:
            if self._pending(path, answers := host.batch(_probes(path))):
                original = quote(remote_paths.original(path))
                check(
                    host,
                    "\n".join(
                        [
                            f"set -e; umask 077; ! {_is_kept(path)} || exit 0",
                            f"mkdir -p $(dirname {original}); cp -a {quote(path)} {original}.new",
                            f"sync {original}.new; mv -fT {original}.new {original}",
                        ]
                    ),
                    f"keeping {path}",
                )
                self._file(path, answers[-1]).apply(host)


def _probes(path: str) -> Sequence[str]:
    return (*File(path, b"").probes(), f"cat {quote(remote_paths.original(path))} || cat {quote(path)}")


def _is_kept(path: str) -> str:
    return f"[ -e {quote(remote_paths.original(path))} ]"


def is_mirrored() -> str:
    """Shell text that succeeds while anything that stood there before is kept."""
    return " || ".join(map(_is_kept, APT_SOURCES))


def put_back() -> str:
    """Shell text that puts back what stood there. May be cut off at any point, and run again."""
    return "\n".join(["set -e", *map(_put_back, APT_SOURCES)])


def _put_back(path: str) -> str:
    original, (folder, _, name) = quote(remote_paths.original(path)), path.rpartition("/")
    return "\n".join(
        [
            f"if {_is_kept(path)}; then",
            keep(path, f"sha256sum <{quote(path)}", ""),
            f"new=$(mktemp {quote(f'{folder}/.{name}.XXXXXX')}); trap 'rm -f \"$new\"' EXIT",
            f'cp -a {original} "$new"; sync "$new"; mv -fT "$new" {quote(path)}; rm -f {original}',
            "fi",
        ]
    )
