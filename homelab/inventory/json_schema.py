"""The JSON Schema of the inventory, for editors: generated from the declarations that the reader uses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from homelab.inventory.container_defaults import ContainerDefaults
from homelab.inventory.declaration import EXTENSION, declaration_of
from homelab.inventory.root_section import Root
from homelab.inventory.service_options import services_schema
from homelab.services.registry import Registry

FILE_NAME = "inventory.schema.json"
# Without a range of vmids, each container needs a vmid.
_VMID_RULE = {
    "if": {
        "required": ["defaults"],
        "properties": {
            "defaults": {"type": "object", "required": ["vmid_range"], "properties": {"vmid_range": {"type": "string"}}}
        },
    },
    "else": {
        "properties": {
            "containers": {"additionalProperties": {"required": ["vmid"], "properties": {"vmid": {"type": "integer"}}}}
        }
    },
}


def json_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 7) of an inventory; without a registry, with homelab's own services."""
    schema = declaration_of(Root).json_schema()
    # The default of a container is the value under `defaults:`.
    container = schema["properties"]["containers"]["additionalProperties"]["properties"]
    for field in fields(ContainerDefaults):
        container[field.name].pop("default", None)
    container["services"] |= services_schema(registry or Registry())
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "homelab inventory",
        "description": "The inventory of homelab: Proxmox VE, network, containers, services and pipeline.",
        **schema,
        "patternProperties": {f"^{EXTENSION}": {}},
        **_VMID_RULE,
    }


def render(registry: Registry | None = None) -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(json_schema(registry), indent=2, ensure_ascii=False) + "\n"


def write_schema(folder: Path) -> Path:
    """Write the JSON Schema next to an inventory; return its path."""
    path = folder / FILE_NAME
    path.write_text(render(Registry(folder)), encoding="utf-8")
    return path
