"""Certificates of the lab's CA in the containers: the CA for clients, and one certificate for each service with TLS."""

from __future__ import annotations

from collections.abc import Iterator

from homelab.certificates import Names
from homelab.model import Container, Inventory, ServiceContext, Step
from homelab.steps import Directory, File, ServerCertificate

_FOLDER = "/etc/ssl/homelab"
CA_FILE = f"{_FOLDER}/ca.crt"


def container_names(container: Container) -> Names:
    """Return the names under which clients may reach a container."""
    hosts = {container.name}
    if domain := container.shape.searchdomain:
        hosts.add(f"{container.name}.{domain}")
    return Names.of(hosts, {container.address})


def lab_names(inventory: Inventory) -> Names:
    """Return the names of all containers, to which the lab's CA is limited."""
    each = [container_names(container) for container in inventory.containers]
    hosts = {host for names in each for host in names.hosts}
    return Names.of(hosts, {container.address for container in inventory.containers})


def trusted_authority(context: ServiceContext) -> Iterator[Step]:
    """Yield the CA's certificate for the clients in a container, if any service of the lab provides TLS."""
    ports = (
        port
        for container in context.inventory.containers
        for service in container.services.values()
        for port in service.ports()
    )
    if any(port.tls for port in ports):
        yield Directory(_FOLDER)
        authority = context.secret_store.authority(context.inventory.lab, lab_names(context.inventory))
        yield File(CA_FILE, authority.certificate.encode())


def server_certificate(context: ServiceContext, service: str, group: str) -> ServerCertificate:
    """Return the step for the key and certificate of a service; members of `group` can read it."""
    return ServerCertificate(
        f"{_FOLDER}/{service}.pem",
        context.secret_store.authority(context.inventory.lab, lab_names(context.inventory)),
        container_names(context.container),
        group,
    )
