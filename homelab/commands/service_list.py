"""`homelab services`: all services with their origin, and the containers that run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model import Inventory
from homelab.services.registry import Registry, ServiceError


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service with its origin and the containers that run it; `error` is the reason why it cannot be used."""

    name: str
    origin: str
    version: str
    description: str
    containers: Sequence[str]
    error: str | None


def list_services(registry: Registry, inventory: Inventory | None) -> list[ServiceRow]:
    """Return one row for each source of a service; without an inventory, no service has containers."""
    rows = []
    for source in registry.sources():
        error, description = None, ""
        try:
            description = (registry.get(source.name).__doc__ or "").partition("\n")[0]
        except ServiceError as failure:
            error = str(failure)
        containers = [c.name for c in inventory.containers_with(source.name)] if inventory else []
        rows.append(ServiceRow(source.name, source.origin, source.version, description, containers, error))
    return rows
