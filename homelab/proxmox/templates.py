"""Container templates: from `ubuntu-24.04` or a volume id to the newest one that the node has, or can download."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from homelab.distributions import DISTRIBUTIONS
from homelab.errors import HomelabError
from homelab.model import Container
from homelab.plan import Create, Plan
from homelab.plan.template import Template, file_name
from homelab.proxmox.client import Client
from homelab.proxmox.plan_executor import only_node

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names for what the kernel says


class Templates:
    """The templates that the nodes have and can get: reads only, and asks for each thing once."""

    def __init__(self, client: Client) -> None:
        self._volumes = cache(lambda node, storage: volumes(client, node, storage))
        self._storage = cache(lambda node, storage: client.get(f"nodes/{node}/storage/{storage}/status"))
        self._available = cache(lambda node: _packages(client.get(f"nodes/{node}/aplinfo")))
        self._architecture = cache(lambda node: _architecture(client.get(f"nodes/{node}/status")))

    def of(self, container: Container, node: str) -> Template:
        """A container's template on a node. Raises HomelabError if there is none, and none to download either."""
        alias = DISTRIBUTIONS.get(container.template)
        storage = container.template_storage if alias else container.template.partition(":")[0]
        there: Sequence[str] = self._volumes(node, storage)
        if volume := self._choice(node, there, container.template):
            return Template(node, volume)
        status: Mapping[str, Any] = self._storage(node, storage)
        if "vztmpl" not in str(status["content"]).split(","):
            raise HomelabError(
                f"{container.name}: storage {storage} takes no templates",
                f"On node {node} it holds "
                f"{status['content']}, but not vztmpl, so {container.template} can be neither there nor downloaded.",
                f"On the node: `pvesm set {storage} --content {status['content']},vztmpl`; or write another "
                "`template_storage` in the inventory.",
            )
        if package := self._choice(node, self._available(node), container.template):
            return Template(node, f"{storage}:vztmpl/{package}", missing=True, shared=bool(status.get("shared")))
        name = f"{alias.template_prefix}…" if alias else file_name(container.template)
        raise HomelabError(
            f"{container.name}: there is no template for {container.template} on storage {storage}, and none to "
            "download",
            f"Node {node} has {', '.join(map(file_name, there)) or 'none at all'}, and its list of "
            f"templates has no {name} for its architecture.",
            "On the node: `pveam update` reads the list anew, `pveam available --section system` shows it; then run "
            "the same command again.",
        )

    def _choice(self, node: str, names: Sequence[str], template: str) -> str | None:
        """The newest of an alias's that runs on the node, or the very one that is named."""
        if alias := DISTRIBUTIONS.get(template):
            matching = [name for name in names if file_name(name).startswith(alias.template_prefix)]
            return newest(fitting(matching, self._architecture(node))) if matching else None
        return next((name for name in names if file_name(name) == file_name(template)), None)


def with_templates(client: Client, plan: Plan) -> Plan:
    """The plan with the template of each container that it makes. Raises HomelabError for one that cannot be had."""
    templates = Templates(client)
    nodes = cache(lambda: only_node(client))
    return replace(
        plan,
        actions=tuple(
            replace(action, template=templates.of(action.container, action.container.node or nodes()))
            if isinstance(action, Create)
            else action
            for action in plan.actions
        ),
    )


def volumes(client: Client, node: str, storage: str) -> Sequence[str]:
    """The volume ids of the templates on a storage. Raises HomelabError."""
    rows = client.get(f"nodes/{node}/storage/{storage}/content", content="vztmpl")
    return [str(row["volid"]) for row in rows]


def fitting(names: Iterable[str], architecture: str) -> Sequence[str]:
    """The templates whose name does not say that they are for another architecture."""
    others = set(_ARCHITECTURES.values()) - {architecture}
    return [name for name in names if not any(f"_{other}." in name for other in others)]


def newest(names: Iterable[str]) -> str | None:
    """The one of the highest version; 24.10 is newer than 24.9."""
    return max(names, key=_version, default=None)


def _version(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _packages(rows: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return [str(row["template"]) for row in rows if row.get("type") == "lxc"]


def _architecture(status: Mapping[str, Any]) -> str:
    return _ARCHITECTURES.get(str(status["current-kernel"]["machine"]), "amd64")
