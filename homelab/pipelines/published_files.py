"""The published files of the pipelines, and the services that read them: in place, or as copies elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from homelab.model import Container, Inventory, Pipeline
from homelab.model.stages import ANALYTICS, BUILD
from homelab.pipelines.layout import Layout

COPIES = "/var/lib/homelab-published"  # the folder of the copies, with a folder for each pipeline
FILE = "published.duckdb"  # DuckDB names the catalog after its file, so a copy has the same name


def publishing(inventory: Inventory) -> Sequence[Pipeline]:
    """Return the pipelines that publish a file."""
    return [pipeline for pipeline in inventory.pipelines if BUILD in pipeline.commands]


def reading_containers(inventory: Inventory) -> Sequence[Container]:
    """Return the containers with a service that reads the published files."""
    return [each for each in inventory.containers if any(s.reads_published for s in each.services.values())]


def read_by_others(inventory: Inventory) -> Collection[str]:
    """Return the names of the pipelines with a published file that other pipelines or services read."""
    of_services = publishing(inventory) if reading_containers(inventory) else ()
    return {*(name for each in inventory.pipelines for name in each.reads), *(each.name for each in of_services)}


def readers_group(name: str) -> str:
    """Return the group that can read the published file of a pipeline."""
    return f"readers-{name}"


def is_builder(inventory: Inventory, container: Container) -> bool:
    """Return True for the container in which the pipelines publish their files."""
    return ANALYTICS in inventory.stages_on(container)


def readable_file(inventory: Inventory, container: Container, pipeline: Pipeline) -> str:
    """Return the path of a pipeline's published file, or of its copy, for the services of a container."""
    folder = Layout(pipeline).data if is_builder(inventory, container) else f"{COPIES}/{pipeline.name}"
    return f"{folder}/{FILE}"
