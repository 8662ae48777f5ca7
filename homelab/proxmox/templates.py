"""Container templates: from an alias such as `ubuntu-24.04` to the newest volume on the node's storage."""

from __future__ import annotations

import re
from collections.abc import Iterable

from homelab.distributions import DISTRIBUTIONS
from homelab.errors import HomelabError
from homelab.model import Container
from homelab.proxmox.client import Client


def template_volume(client: Client, node: str, container: Container) -> str:
    """The volume id of a container's template. Raises HomelabError if the node does not have it."""
    distribution = DISTRIBUTIONS.get(container.template)
    storage = container.template_storage if distribution else container.template.partition(":")[0]
    rows = client.get(f"nodes/{node}/storage/{storage}/content", content="vztmpl")
    volumes = [str(row["volid"]) for row in rows]
    if distribution is None:
        volume = container.template if container.template in volumes else None
        file_name = container.template.rpartition("/")[2]
    else:
        volume = newest(volumes, distribution.template_prefix)
        file_name = f"{distribution.template_prefix}…"
    if volume is None:
        raise HomelabError(
            f"{container.name}: there is no template for {container.template} on storage {storage}",
            f"Node {node} has {', '.join(v.rpartition('/')[2] for v in volumes) or 'none at all'}.",
            f"On the node: `pveam update`, `pveam available --section system`, then `pveam download {storage} "
            f"{file_name}` with the full name that it lists.")
    return volume


def newest(volumes: Iterable[str], prefix: str) -> str | None:
    """The volume of the highest version among those whose file name begins so; 24.10 is newer than 24.9."""
    matching = [volume for volume in volumes if volume.rpartition("/")[2].startswith(prefix)]
    return max(matching, key=_version, default=None)


def _version(volume: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", volume)]
