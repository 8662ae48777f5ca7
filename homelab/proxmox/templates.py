"""Container templates: resolve `ubuntu-24.04` or a volume id to the newest template that a node has or can download."""

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

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names for the kernel's architectures


class Templates:
    """Reader of the templates that the nodes have or can download; caches every call."""

    def __init__(self, client: Client) -> None:
        self._volumes = cache(lambda node, storage: volumes(client, node, storage))
        self._storage = cache(lambda node, storage: client.get(f"nodes/{node}/storage/{storage}/status"))
        self._available = cache(lambda node: _packages(client.get(f"nodes/{node}/aplinfo")))
        self._architecture = cache(lambda node: _architecture(client.get(f"nodes/{node}/status")))

    def of(self, container: Container, node: str) -> Template:
        """Return a container's template on a node. Raises HomelabError if the node neither has nor can download one."""
        alias = DISTRIBUTIONS.get(container.template)
        storage = container.template_storage if alias else container.template.partition(":")[0]
        existing: Sequence[str] = self._volumes(node, storage)
        if volume := self._choice(node, existing, container.template):
            return Template(node, volume)
        status: Mapping[str, Any] = self._storage(node, storage)
        if "vztmpl" not in str(status["content"]).split(","):
            raise HomelabError(
                f"Cannot create {container.name}: storage {storage} does not accept templates",
                f"On node {node} it accepts {status['content']}, but not vztmpl, which {container.template} needs.",
                f"On the node: `pvesm set {storage} --content {status['content']},vztmpl`; or write another "
                "`template_storage` in the inventory.",
            )
        if package := self._choice(node, self._available(node), container.template):
            return Template(node, f"{storage}:vztmpl/{package}", missing=True, shared=bool(status.get("shared")))
        name = f"{alias.template_prefix}…" if alias else file_name(container.template)
        raise HomelabError(
            f"Cannot create {container.name}: storage {storage} has no template for {container.template}, and the node "
            "cannot download one",
            f"Node {node} has {', '.join(map(file_name, existing)) or 'no templates'}, and its list of downloads has "
            f"no {name} for its architecture.",
            "On the node: `pveam update` refreshes the list, `pveam available --section system` shows it; then run "
            "the same command again.",
        )

    def _choice(self, node: str, names: Sequence[str], template: str) -> str | None:
        """Return the newest template of an alias for the node's architecture, or the named template."""
        if alias := DISTRIBUTIONS.get(template):
            matching = [name for name in names if file_name(name).startswith(alias.template_prefix)]
            return newest(fitting(matching, self._architecture(node))) if matching else None
        return next((name for name in names if file_name(name) == file_name(template)), None)


def with_templates(client: Client, plan: Plan) -> Plan:
    """Return the plan with the template of each new container. Raises HomelabError for an unavailable one."""
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
    """Return the volume ids of the templates on a storage. Raises HomelabError."""
    rows = client.get(f"nodes/{node}/storage/{storage}/content", content="vztmpl")
    return [str(row["volid"]) for row in rows]


def fitting(names: Iterable[str], architecture: str) -> Sequence[str]:
    """Return the templates without another architecture in their name."""
    others = set(_ARCHITECTURES.values()) - {architecture}
    return [name for name in names if not any(f"_{other}." in name for other in others)]


def newest(names: Iterable[str]) -> str | None:
    """Return the template with the highest version; 24.10 is newer than 24.9."""
    return max(names, key=_version, default=None)


def _version(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _packages(rows: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    return [str(row["template"]) for row in rows if row.get("type") == "lxc"]


def _architecture(status: Mapping[str, Any]) -> str:
    return _ARCHITECTURES.get(str(status["current-kernel"]["machine"]), "amd64")
