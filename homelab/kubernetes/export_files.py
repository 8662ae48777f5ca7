"""The files of an export: manifests by workload, kustomization.yaml, and a build context for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from homelab.kubernetes.manifests import Manifest, kustomization, namespace_of, objects_of, shared_objects
from homelab.kubernetes.workloads import Export

_HEADER = "# Written by `homelab export kubernetes`, which overwrites it.\n"


def export_files(export: Export) -> Mapping[str, bytes]:
    """Return the files by their path below the folder of the export."""
    manifests = {
        "namespace.yaml": [namespace_of(export.lab)],
        "shared.yaml": shared_objects(export),
        **{f"{each.name}.yaml": list(objects_of(each)) for each in export.workloads},
    }
    files = {"kustomization.yaml": _yaml([kustomization(export, list(manifests))])}
    files |= {name: _yaml(objects) for name, objects in manifests.items()}
    for image in export.images:
        files |= {f"images/{image.name}/{name}": content for name, content in image.files.items()}
    return files


def _yaml(objects: Iterable[Manifest]) -> bytes:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks, and no references."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_multi_representer(str, text)
    Dumper.add_representer(str, text)
    dumped = yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)
    return (_HEADER + dumped).encode()
