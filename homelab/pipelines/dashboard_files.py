"""The files of dashboards: YAML in a stable order, and the form that Superset imports."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from homelab.model.dashboards import DEFAULTS, PART_DEFAULTS, DashboardAsset, connection_uuid, ordered

_VERSION = "1.0.0"
_WIDTH = 120


def file_text(asset: DashboardAsset) -> str:
    """Return the text of an asset's file."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """A dumper that writes text of several lines unescaped, and lists below their key."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(ordered(asset.content), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH))


def file_name(asset: DashboardAsset, taken: Collection[str]) -> str:
    """Return an unused path below `dashboards/`, from the title of an asset; `taken` are the used paths."""
    words = re.findall(r"[a-z0-9]+", asset.title.lower()) or [asset.kind]
    stem = f"{asset.kind}s/{'_'.join(words)[:60]}"
    names = (f"{stem}{suffix}.yaml" for suffix in ("", *(f"_{number}" for number in range(2, 1000))))
    return next(name for name in names if name not in taken)


def tar_of(assets: Iterable[DashboardAsset]) -> bytes:
    """Return a tar archive with the files of assets."""
    buffer, names = io.BytesIO(), set[str]()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for asset in assets:
            content, name = file_text(asset).encode(), file_name(asset, names)
            names.add(name)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def to_import(asset: DashboardAsset, pipeline: str) -> Mapping[str, Any]:
    """Return the content with the defaults that the canonical form omits: Superset keeps its value of a missing key."""
    content = {"version": _VERSION, **DEFAULTS[asset.kind], **asset.content}
    if asset.kind == "dataset":
        parts = {key: [{**default, **each} for each in content[key]] for key, default in PART_DEFAULTS.items()}
        return {**content, "database_uuid": connection_uuid(pipeline), **parts}
    if asset.kind == "chart":
        return {**content, "params": {**content["params"], "viz_type": content["viz_type"]}}
    return content
