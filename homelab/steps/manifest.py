"""What is in a container because of us: kept there, so that what is no longer wanted can be taken away again."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps.apt_mirror import is_mirrored, put_back
from homelab.steps.files import keep

_UNIT = re.compile(r"[A-Za-z0-9@:_.\\-]+\.(service|socket|timer|path|target|mount)")
# What depends on others goes before them: a unit before its files, and what is in a directory before the directory.
_ORDER = ("unit", "file", "mirror", "certificate", "made", "tree", "venv", "directory")


def parse(text: str) -> frozenset[ManagedResource]:
    """What a manifest lists. A line that we would not have written names nothing."""
    found = (ManagedResource(*line.split(" ", 1)) for line in text.splitlines() if " " in line)
    return frozenset(owned for owned in found if _is_sound(owned))


def text(owned: Collection[ManagedResource]) -> bytes:
    """A manifest that lists these."""
    return "".join(f"{each}\n" for each in sorted(owned)).encode()


def orphaned(ours: Collection[ManagedResource], wanted: Collection[ManagedResource]) -> list[ManagedResource]:
    """What is ours and no longer wanted, in the order in which it goes; nothing in it holds what is still wanted."""
    paths = {each.name for each in wanted if each.kind != "unit"}
    whole = {each.name for each in wanted if each.kind in ("tree", "venv")}

    def goes(each: ManagedResource) -> bool:
        if each.kind == "unit":
            return each not in wanted
        inside = any(_within(each.name, path) for path in whole)
        return not inside and not any(_within(path, each.name) for path in paths)

    return sorted(filter(goes, ours), key=lambda each: (_ORDER.index(each.kind), [-each.name.count("/")], each.name))


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_sound(owned: ManagedResource) -> bool:
    if owned.kind == "unit":
        return _UNIT.fullmatch(owned.name) is not None
    path = owned.name
    return owned.kind in _ORDER and re.match("/[^/]+/", path) is not None and posixpath.normpath(path) == path


@dataclass(frozen=True, eq=False)
class RemoveResource(Step):
    """Something of ours that is no longer wanted. Of a directory, only an empty one goes: what is in it is not ours."""

    owned: ManagedResource

    @property
    def title(self) -> str:
        """See Step."""
        return f"remove {self.owned}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        name = quote(self.owned.name)
        return (
            {
                "unit": f"{self._has_file} || systemctl is-active --quiet {name}",
                "mirror": is_mirrored(),
                "directory": f'[ -d {name} ] && [ -z "$(ls -A {name})" ]',
            }.get(self.owned.kind, f"[ -e {name} ] || [ -L {name} ]"),
        )

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return Pending("no longer in the inventory") if answers[0].ok else None

    def apply(self, host: Host) -> None:
        """See Step. Packages stay, so a unit of theirs is masked: it would start at the next boot."""
        remove = {"unit": self._remove_unit, "directory": self._remove_directory, "mirror": self._put_back}
        check(host, remove.get(self.owned.kind, self._remove_path)(), self.title, timeout=300)

    @property
    def _unit_file(self) -> str:
        return quote(f"/etc/systemd/system/{self.owned.name}")

    @property
    def _has_file(self) -> str:
        return f"{{ [ -f {self._unit_file} ] && [ ! -L {self._unit_file} ]; }}"  # a masked unit is a link

    def _remove_unit(self) -> str:
        unit = quote(self.owned.name)
        return "\n".join(
            [
                f"there() {{ systemctl cat {unit} >/dev/null 2>&1; }}",
                f"if there; then systemctl stop {unit} && systemctl disable --quiet {unit} 2>/dev/null; fi",
                f"if {self._has_file}; then rm -f {self._unit_file}",
                f"elif there; then systemctl mask --quiet {unit}; fi",
                f"systemctl daemon-reload && {{ systemctl reset-failed {unit} 2>/dev/null || true; }}",
            ]
        )

    def _remove_path(self) -> str:
        kind, path = self.owned.kind, quote(self.owned.name)
        beside = {"tree": f" {path}.new {path}.old", "venv": f" {path}.next {path}-*"}.get(kind, "")
        return "\n".join(
            [
                "set -e; umask 077",
                keep(self.owned.name, f"sha256sum <{path}", "") if kind == "file" else "",
                f"rm -rf {path}{beside}",
                "update-ca-certificates --fresh" if kind == "certificate" else "",
            ]
        )

    def _put_back(self) -> str:
        return put_back()

    def _remove_directory(self) -> str:
        return f"[ ! -d {quote(self.owned.name)} ] || {argv('rmdir', '--ignore-fail-on-non-empty', self.owned.name)}"
