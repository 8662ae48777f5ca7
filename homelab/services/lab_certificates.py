"""Certificates of the lab's CA in the containers: the CA for clients, and one certificate for each service with TLS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from homelab.certificates import Description, Names
from homelab.host import Result, argv
from homelab.model import Container, Health, Inventory, ServiceContext, Step
from homelab.model.web_uis import domain_of
from homelab.steps import Directory, File, ServerCertificate

_FOLDER = "/etc/ssl/homelab"
CA_FILE = f"{_FOLDER}/ca.crt"
_WARNING = timedelta(days=90)  # before a certificate expires


def container_names(container: Container) -> Names:
    """Return the names under which clients may reach a container."""
    return Names.of(_host_names(container), {container.address})


def _host_names(container: Container) -> set[str]:
    domain = container.shape.searchdomain
    return {container.name, *([f"{container.name}.{domain}"] if domain else [])}


def lab_names(inventory: Inventory) -> Names:
    """Return the names to which the lab's CA is limited: the names of all containers, and the gateway's domain.

    With DHCP, the limit is all addresses of the subnet. So another lease or web UI needs no other certificate of the
    CA.
    """
    hosts = {host for container in inventory.containers for host in _host_names(container)}
    if domain := domain_of(inventory.containers):
        hosts.add(domain)
    if any(container.uses_dhcp for container in inventory.containers):
        return Names.of(hosts, {inventory.network.subnet})
    return Names.of(hosts, {container.address for container in inventory.containers})


def trusted_authority(context: ServiceContext) -> Iterator[Step]:
    """Yield the CA's certificate for the clients in a container, if any service of the lab provides TLS."""
    if any(endpoint.tls for _, service in context.inventory.services() for endpoint in service.endpoints()):
        yield Directory(_FOLDER)
        authority = context.secret_store.authority(context.inventory.lab, lab_names(context.inventory))
        yield File(CA_FILE, authority.certificate.encode())


def certificate_probe(service: str) -> str:
    """Return shell text that prints the description of a service's certificate."""
    return argv("head", "-n", "1", certificate_path(service))


def with_certificate(health: Health, answer: Result, now: datetime) -> Health:
    """Return a service's health, with a note if its certificate expires soon, or unhealthy if it has expired."""
    try:
        until = Description.read(answer.text).until
    except ValueError:
        return health  # not deployed yet
    if until - now > _WARNING:
        return health
    note = f"its certificate {'expires' if until > now else 'expired'} on {until:%Y-%m-%d}: run `homelab deploy`"
    return replace(health, healthy=health.healthy and until > now, summary=f"{health.summary}; {note}")


def certificate_path(service: str) -> str:
    """Return the file with the key and the certificate of a service."""
    return f"{_FOLDER}/{service}.pem"


def server_certificate(
    context: ServiceContext, service: str, group: str, hosts: Collection[str] = ()
) -> ServerCertificate:
    """Return the step for the key and certificate of a service; members of `group` can read it.

    `hosts` are names in addition to those of the container.
    """
    names = container_names(context.container)
    return ServerCertificate(
        certificate_path(service),
        context.secret_store.authority(context.inventory.lab, lab_names(context.inventory)),
        replace(names, hosts=tuple(sorted({*names.hosts, *hosts}))),
        group,
    )


def certificate_metrics() -> str:
    """Return shell text that prints the end of each certificate's validity as a metric."""
    return f"""for file in {_FOLDER}/*.pem; do
    [ -e "$file" ] || continue
    until=$(head -n 1 "$file" | sed -nE 's/.*"until": "([^"]*)".*/\\1/p')
    name=${{file##*/}}
    echo "homelab_certificate_expiry_timestamp_seconds{{service=\\"${{name%.pem}}\\"}} $(date -d "$until" +%s)"
done"""
