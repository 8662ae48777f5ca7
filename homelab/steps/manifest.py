"""The manifest of managed resources, kept in the container, so that resources no longer wanted are removed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import remote_paths
from homelab.steps.apt_mirror import is_mirrored, restore_sources
from homelab.steps.files import keep_foreign
from homelab.steps.root_only import guarded
from homelab.steps.trees import tree_hash_command

_UNIT = re.compile(r"[A-Za-z0-9@:_.\\-]+\.(service|socket|timer|path|target|mount)")
_LONGEST = 1800  # seconds of a removal: the limits of the unit are shorter
# Dependents first: a unit before its files, and the content of a directory before the directory.
_ORDER = ("unit", "file", "mirror", "certificate", "made", "tree", "venv", "directory")


def parse(text: str) -> frozenset[ManagedResource]:
    """Return the resources of a manifest; ignore lines that homelab would not have written."""
    found = (ManagedResource(*line.split(" ", 1)) for line in text.splitlines() if " " in line)
    return frozenset(resource for resource in found if _is_valid(resource))


def text(resources: Collection[ManagedResource]) -> bytes:
    """Return the manifest that lists these resources."""
    return "".join(f"{each}\n" for each in sorted(resources)).encode()


def orphaned(ours: Collection[ManagedResource], wanted: Collection[ManagedResource]) -> list[ManagedResource]:
    """Return our resources that are no longer wanted, in removal order; none of them contains a wanted one."""
    paths = {each.name for each in wanted if each.kind != "unit"}
    folders = {each.name for each in wanted if each.kind in ("tree", "venv")}

    def is_orphaned(each: ManagedResource) -> bool:
        if each.kind == "unit":
            return each not in wanted
        inside = any(_within(each.name, folder) for folder in folders)
        return not inside and not any(_within(path, each.name) for path in paths)

    return sorted(
        filter(is_orphaned, ours), key=lambda each: (_ORDER.index(each.kind), [-each.name.count("/")], each.name)
    )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_valid(resource: ManagedResource) -> bool:
    if resource.kind == "unit":
        return _UNIT.fullmatch(resource.name) is not None
    path = resource.name
    return resource.kind in _ORDER and re.match("/[^/]+/", path) is not None and posixpath.normpath(path) == path


def removal(resource: ManagedResource) -> Pending:
    """Return the reason for the removal of a resource."""
    reason = "no longer in the inventory"
    if resource.kind == "unit":
        return Pending(reason, effect=f"stops {resource.name.removesuffix('.service')}")
    if resource.kind in ("file", "tree"):
        return Pending(f"{reason}; changes by hand are kept in {remote_paths.replaced(resource.name)}")
    return Pending(reason)


@dataclass(frozen=True, eq=False)
class RemoveResource(Step):
    """Removal of a managed resource. A directory is removed only if it is empty: its content is not ours."""

    resource: ManagedResource

    @property
    def title(self) -> str:
        """See Step."""
        return f"remove {self.resource}"

    def probes(self) -> Sequence[str]:
        """See Step."""
        name = quote(self.resource.name)
        exists = {
            "unit": f"{self._has_unit_file} || systemctl is-active --quiet {name}",
            "mirror": is_mirrored(),
            "directory": f'[ -d {name} ] && [ ! -L {name} ] && [ -z "$(ls -A {name})" ]',
        }.get(self.resource.kind, f"[ -e {name} ] || [ -L {name} ]")
        # The content of a folder that another user can change is not ours any more.
        return (exists if self.resource.kind == "unit" else guarded(exists, self.resource.name),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return removal(self.resource) if answers[0].ok else None

    def apply(self, host: Host) -> None:
        """See Step. Packages stay, so a unit of a package is masked: it would start at the next boot."""
        scripts = {"unit": self._remove_unit, "directory": self._remove_directory, "mirror": restore_sources}
        text = scripts.get(self.resource.kind, self._remove_path)()
        text = text if self.resource.kind == "unit" else guarded(text, self.resource.name)
        check(host, text, self.title, timeout=_LONGEST)

    @property
    def _unit_file(self) -> str:
        return quote(f"/etc/systemd/system/{self.resource.name}")

    @property
    def _has_unit_file(self) -> str:
        return f"{{ [ -f {self._unit_file} ] && [ ! -L {self._unit_file} ]; }}"  # a masked unit is a link

    def _remove_unit(self) -> str:
        unit = quote(self.resource.name)
        return "\n".join(
            [
                f"exists() {{ systemctl cat {unit} >/dev/null 2>&1; }}",
                f"if exists; then systemctl stop {unit} && systemctl disable --quiet {unit} 2>/dev/null; fi",
                f"if {self._has_unit_file}; then rm -f {self._unit_file}",
                f"elif exists; then systemctl mask --quiet {unit}; fi",
                f"systemctl daemon-reload && {{ systemctl reset-failed {unit} 2>/dev/null || true; }}",
            ]
        )

    def _remove_path(self) -> str:
        kind, path = self.resource.kind, quote(self.resource.name)
        hashes = {"file": f"sha256sum <{path}", "tree": tree_hash_command(self.resource.name)}
        leftovers = {"tree": f" {path}.new {path}.old", "venv": f" {path}.next {path}-*"}.get(kind, "")
        return "\n".join(
            [
                "set -e; umask 077",
                keep_foreign(self.resource.name, hashes[kind], "") if kind in hashes else "",
                f"rm -rf {path}{leftovers}",
                "update-ca-certificates --fresh" if kind == "certificate" else "",
            ]
        )

    def _remove_directory(self) -> str:
        name = self.resource.name
        return f"[ ! -d {quote(name)} ] || {argv('rmdir', '--ignore-fail-on-non-empty', name)}"
