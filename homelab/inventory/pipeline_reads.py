"""`reads:` of the manifests: the pipelines whose published tables a pipeline's dbt project reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from homelab.inventory.errors import did_you_mean
from homelab.inventory.pipeline_manifest import Manifest
from homelab.model import Pipeline
from homelab.model.inventory import WEATHER


def with_reads(manifests: Sequence[Manifest], names: Collection[str]) -> tuple[Pipeline, ...]:
    """Return the pipelines with the dbt projects that they read; record a problem for each that they cannot read.

    `names` are all pipelines of the inventory, those with a problem included.
    """
    projects = {each.pipeline.name: each.pipeline.folder / "dbt" for each in manifests}
    by_name = {each.pipeline.name: each for each in manifests}
    found = []
    for manifest in manifests:
        reads = dict[str, Path]()
        for index, name in enumerate(manifest.reads):
            if error := _error(manifest, name, names, by_name):
                manifest.section.problem(error, "reads", index)
            elif name in projects:
                reads[name] = projects[name]
        found.append(replace(manifest.pipeline, reads=reads))
    return tuple(found)


def _error(manifest: Manifest, name: str, names: Collection[str], by_name: Mapping[str, Manifest]) -> str:
    """Return the reason why a pipeline cannot read another one, or ""."""
    own, other = manifest.pipeline.name, by_name.get(name)
    if own == WEATHER:
        return "the weather reads no other pipeline"
    if name == own:
        return "a pipeline does not read itself: its models use `ref`"
    if name not in names:
        return f"the inventory has no pipeline `{name}`; {did_you_mean(name, [each for each in names if each != own])}"
    if not manifest.pipeline.has_dbt:
        return "needs models that read it, in dbt/"
    if other and not other.pipeline.has_dbt:
        return f"`{name}` publishes nothing: it has no dbt/dbt_project.yml"
    if path := _path(name, own, {each: known.reads for each, known in by_name.items()}):
        return f"is a cycle: {' reads '.join([own, *path])}"
    return ""


def _path(start: str, end: str, reads: Mapping[str, Sequence[str]], seen: frozenset[str] = frozenset()) -> list[str]:
    """Return the names from `start` to `end`, each of which reads the next one; empty if there is no such path."""
    if start == end:
        return [start]
    for each in reads.get(start, ()):
        if each not in seen and (rest := _path(each, end, reads, seen | {start})):
            return [start, *rest]
    return []
