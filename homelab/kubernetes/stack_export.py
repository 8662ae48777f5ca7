"""The export of an inventory: the workloads, images and secrets of the services that Kubernetes can run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address

from homelab.certificates import Authority, Description, Names
from homelab.errors import InputError
from homelab.kubernetes.database import POSTGRES, allowed_clients, certificate_name, server, setup
from homelab.kubernetes.pipeline_jobs import (
    API_KEY,
    left_out_commands,
    pipeline_image,
    pipeline_job,
    require_exportable,
)
from homelab.kubernetes.workloads import Export, Workload
from homelab.model import Container, Inventory, SecretStore, Service, ServiceContext
from homelab.model.options import SecretName
from homelab.model.secret_store import user_secrets
from homelab.model.stages import ANALYTICS, INGESTION, STAGES
from homelab.pipelines.container_steps import Limits
from homelab.services.analytics import Analytics
from homelab.services.lab_certificates import lab_names

_FILES = ("kustomization", "namespace", "shared")  # the manifests that belong to no workload
_EXPORTED = (POSTGRES, ANALYTICS, INGESTION)


def stack_export(inventory: Inventory, store: SecretStore, registry: str = "") -> Export:
    """Return the export of an inventory; `registry` is the prefix of its images: `registry.home.arpa/lab`.

    Makes the missing passwords, and the certificate of the server. Raises InputError without PostgreSQL, for a pipeline
    that needs another service, and for a secret that the user did not set.
    """
    kept = _exported_part(inventory)
    container = kept.container_with(POSTGRES)
    pipelines = [each for each in kept.pipelines if each.tasks]
    for pipeline in pipelines:
        require_exportable(kept, pipeline)
    context = ServiceContext(inventory=kept, container=container, secret_store=store, host_keys={})
    images = [pipeline_image(kept, each, registry) for each in pipelines]
    limits = _limits(kept)
    jobs = [pipeline_job(context, each, image.reference, limits) for each, image in zip(pipelines, images, strict=True)]
    runners = {kept.container_of(stage).name for stage in STAGES} if pipelines else set()
    clients = allowed_clients(kept, container, {each.name: runners for each in jobs})
    workloads = (server(kept, container, clients), setup(context, pipelines), *jobs)
    _require_unique_names(workloads)
    secret = f"kubernetes-{certificate_name(container)}"
    authority = store.authority(inventory.lab, lab_names(inventory))
    _require_certificate(store, secret, authority, Names.of({container.name}, set[IPv4Address]()))
    weather = inventory.weather if any(each.is_weather for each in pipelines) else None
    return Export(
        lab=inventory.lab,
        workloads=workloads,
        images=tuple(images),
        authority=authority.certificate,
        secrets=_require_secrets(store, workloads),
        api_key_file=weather.api_key_file if weather else None,
        certificates={certificate_name(container): secret},
        left_out=(*_left_out_services(inventory), *left_out_commands(kept.pipelines)),
    )


def _exported_part(inventory: Inventory) -> Inventory:
    """Return the inventory with only the services that are exported, and without pipelines if none runs them.

    An external object storage has no process of its own, so it stays.
    """
    containers = tuple(
        replace(each, services={name: kind for name, kind in each.services.items() if _is_exported(each, name, kind)})
        for each in inventory.containers
    )
    kept = replace(inventory, containers=containers)
    return kept if kept.containers_with(ANALYTICS) else replace(kept, pipelines=(), weather=None)


def _is_exported(container: Container, name: str, service: Service) -> bool:
    return name in _EXPORTED or (not service.units() and service.object_storage(container, name) is not None)


def _left_out_services(inventory: Inventory) -> Iterator[str]:
    for container in inventory.containers:
        for name, service in container.services.items():
            if not _is_exported(container, name, service):
                yield f"the service `{name}` of {container.name}"


def _limits(inventory: Inventory) -> Limits:
    for _, service in inventory.services():
        if isinstance(service, Analytics):
            return Limits(service.memory_limit, service.threads)
    return Limits()


def _require_unique_names(workloads: Sequence[Workload]) -> None:
    names = Counter([*_FILES, *(each.name for each in workloads)])
    if taken := [name for name, count in names.items() if count > 1]:
        raise InputError(
            f"Cannot export {', '.join(taken)}: two manifests would have this name",
            f"The names {', '.join(_FILES)} are reserved, and underscores in the names of pipelines become hyphens.",
            "Rename the pipeline or the container.",
        )


def _require_secrets(store: SecretStore, workloads: Sequence[Workload]) -> Sequence[str]:
    """Return the names of all secrets of the store that the workloads use; make those that homelab generates.

    Raises InputError for those that the user has to set and did not, or that have several lines.
    """
    used = [key for workload in workloads for process in workload.processes for key in process.secrets.values()]
    used += [key for workload in workloads for volume in workload.volumes if not volume.source for key in volume.keys]
    names = sorted({*used} - {API_KEY})
    user_secrets(store, (name for name in used if isinstance(name, SecretName)))
    for name in names:
        if "\n" in store.secret(name).reveal():
            raise InputError(
                f"Cannot export the secret {name}: it has several lines",
                "The commands hand over each secret as one line.",
                f"Set it as one line, such as its Base64: `homelab secret set {name}`.",
            )
    return names


def _require_certificate(store: SecretStore, secret: str, authority: Authority, names: Names) -> None:
    """Keep a key with a valid certificate for these names in the store; an earlier one stays if it still fits."""
    known = store.known_secret(secret)
    try:
        found = Description.read(known.reveal().partition("\n")[0] if known else "")
    except ValueError:
        found = None
    issuer = authority.description.issuer
    if found and found.names == names and found.issuer == issuer and not found.expires_soon(datetime.now(UTC)):
        return
    store.set(secret, authority.issue(names))
