"""The incidents that explain others: Alertmanager sends the cause only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from homelab.model import Container, Inventory
from homelab.pipelines.published_files import reading_containers

CAUSES = ("ContainerDown", "UnitFailed", "PostgresDown", "SchedulerDown", "PipelineFailed", "PipelineLate", "DagFailed")
_LATE = ("PipelineLate", "DataStale")
_OF_SERVICES = ("TargetDown", "EndpointDown", "UnitFailed", "SchedulerDown", "DagFailed", "PipelineFailed", *_LATE)


def inhibitions(inventory: Inventory) -> Sequence[Mapping[str, Any]]:
    """Return Alertmanager's `inhibit_rules`."""
    return [*_in_a_container(), *_between_containers(inventory), *_of_pipelines(inventory)]


def _in_a_container() -> Iterator[Mapping[str, Any]]:
    yield _rule(_named("ContainerDown"), ["alertname != ContainerDown"], ["container"])
    yield _rule(
        _named("UnitFailed"), _named("TargetDown", "EndpointDown", "SchedulerDown", "PostgresDown"), ["container"]
    )


def _between_containers(inventory: Inventory) -> Iterator[Mapping[str, Any]]:
    """Yield the rules for containers with services that need those of another one."""
    for provider in inventory.containers:
        for dependent in inventory.containers:
            if provider != dependent and _needs(dependent, provider):
                cause = [*_named("ContainerDown", "PostgresDown"), _in(provider)]
                yield _rule(cause, [*_named(*_OF_SERVICES), _in(dependent)])
    for reader in reading_containers(inventory):
        yield _rule([*_named("ContainerDown"), _in(reader)], [*_named("CopyOutdated"), f'reader = "{reader.name}"'])
    for container in inventory.containers_with("airflow"):
        yield _rule([*_named("ContainerDown", "SchedulerDown"), _in(container)], _named(*_LATE))


def _of_pipelines(inventory: Inventory) -> Iterator[Mapping[str, Any]]:
    yield _rule(_named("PipelineFailed"), _named(*_LATE), ["pipeline"])
    yield _rule(_named("PipelineLate"), _named("DataStale"), ["pipeline"])
    for pipeline in inventory.pipelines:
        its, dag = f'pipeline = "{pipeline.name}"', f'dag = "{pipeline.dag_id}"'
        yield _rule([*_named("PipelineFailed"), its], [*_named("DagFailed"), dag])
        yield _rule([*_named("DagFailed"), dag], [*_named(*_LATE), its])


def _needs(dependent: Container, provider: Container) -> bool:
    return any(name in provider.services for service in dependent.services.values() for name in service.requires)


def _named(*names: str) -> list[str]:
    return [f'alertname =~ "{"|".join(names)}"']


def _in(container: Container) -> str:
    return f'container = "{container.name}"'


def _rule(source: Sequence[str], target: Sequence[str], equal: Sequence[str] = ()) -> Mapping[str, Any]:
    return {"source_matchers": list(source), "target_matchers": list(target), "equal": list(equal)}
