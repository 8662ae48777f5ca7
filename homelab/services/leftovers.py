"""Data of a service or a pipeline that left the inventory, without data that others use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from homelab.errors import InputError
from homelab.model import Inventory, Pipeline, Service
from homelab.model.inventory import DATABASE
from homelab.model.lake import LAKE
from homelab.pipelines.layout import Layout


@dataclass(frozen=True, slots=True)
class Leftovers:
    """The databases, the schemas by database, the roles, and the folders of a removed service or pipeline.

    A folder is left in a container only if no other service of this container has it.
    """

    databases: Sequence[str]
    schemas: Sequence[tuple[str, str]]
    roles: Sequence[str]
    folders: Sequence[str]


def leftovers(name: str, kind: type[Service], inventory: Inventory) -> Leftovers:
    """Return the data that a service with default options would have left. Raises InputError if it is in use."""
    used = [container.name for container in inventory.containers if name in container.services]
    if used:
        raise InputError(
            f"Cannot prune {name}: it is in the inventory",
            f"{used[0]} has it under `services:`.",
            "Remove it there and run `homelab deploy`; its data stays until you run `homelab prune` again.",
        )
    service = with_defaults(name, kind)
    others = [grant for _, grant in inventory.database_grants()]
    owned = [grant for grant in service.database_grants() if grant.privilege == "own"]
    shared_databases = {DATABASE, *(grant.database for grant in others)}
    shared_schemas = {(grant.database, grant.schema) for grant in others}
    databases = {grant.database for grant in owned if not grant.schema} - shared_databases
    schemas = {(grant.database, grant.schema) for grant in owned if grant.schema} - shared_schemas
    roles = {grant.role for grant in service.database_grants()} - {grant.role for grant in others}

    return Leftovers(
        sorted(databases),
        sorted(each for each in schemas if each[0] not in databases),
        sorted(roles),
        sorted(service.data_folders()),
    )


def pipeline_leftovers(name: str, inventory: Inventory) -> Leftovers:
    """Return the data that a pipeline of this name would have left. Raises InputError if it is in the inventory."""
    if any(pipeline.name == name for pipeline in inventory.pipelines):
        raise InputError(
            f"Cannot prune {name}: it is in the inventory",
            f"{inventory.path} has it under `pipelines:`.",
            "Remove it there and run `homelab deploy`; its data stays until you run `homelab prune` again.",
        )
    pipeline = Pipeline(
        name=name, folder=inventory.path.parent, description="", scripts={}, has_dbt=False, has_dags=False
    )
    others = [grant for _, grant in inventory.database_grants()]
    own = {pipeline.schema, *(["upkeep"] if pipeline.is_weather else [])}
    owned = {*((DATABASE, schema) for schema in own), (LAKE, name)}
    schemas = owned - {(grant.database, grant.schema) for grant in others}
    roles = {pipeline.writer, pipeline.reader} - {grant.role for grant in others}
    return Leftovers([], sorted(schemas), sorted(roles), [Layout(pipeline).root])


def with_defaults(name: str, kind: type[Service]) -> Service:
    """Return the service with its default options, None for required ones."""
    needed = [
        each.name
        for each in fields(cast(Any, kind))
        if each.init and each.default is MISSING and each.default_factory is MISSING
    ]
    try:
        service = kind(**dict.fromkeys(needed))
        object.__setattr__(service, "instance", name.partition("@")[2])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Cannot prune {name}: it needs its options",
            f"{type(error).__name__}: {error}",
            f"Add `{name}` with its options to a container, run `homelab deploy`, and delete its data by hand.",
        ) from error
    return service
