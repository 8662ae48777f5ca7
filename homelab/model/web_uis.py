"""Web UIs of services, and their addresses: ports of the services themselves, or names or ports of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model.container import Container
from homelab.model.endpoints import Endpoint

OFFSET = 10_000  # from the port of a web UI to that of the gateway


@dataclass(frozen=True, slots=True)
class WebUi:
    """A web UI: its service and endpoint, and the container of the gateway that serves it, if one does.

    The gateway has a port or a name for each web UI, and not a path: some programs do not work below a path, and a
    browser separates programs by their ports and names.
    """

    service: str
    container: Container
    endpoint: Endpoint
    gateway: Container | None
    domain: str = ""  # of the gateway's names; empty: ports

    @property
    def port(self) -> int:
        """The port of the gateway, if it has no domain."""
        return self.endpoint.port + OFFSET

    @property
    def name(self) -> str:
        """The host name of the web UI in the gateway's domain; the start page has the domain itself."""
        label = self.service.replace("_", "-").replace("@", "-")
        return f"{label}.{self.domain}" if self.gateway else self.domain

    @property
    def host(self) -> Container:
        """The container that people open: the gateway, or that of the service."""
        return self.gateway or self.container

    @property
    def url(self) -> str:
        """The address for people."""
        if self.domain:
            return f"https://{self.name}"
        address = str(self.host.address)
        return f"https://{address}:{self.port}" if self.gateway else self.endpoint.url(address)


def gateway_of(containers: Sequence[Container]) -> Container | None:
    """Return the container with the service that publishes all web UIs, or None."""
    return next((each for each in containers if any(s.publishes_web_uis for s in each.services.values())), None)


def domain_of(containers: Sequence[Container]) -> str:
    """Return the domain of the gateway's names; empty without one."""
    return next((each.web_domain for c in containers for each in c.services.values() if each.publishes_web_uis), "")


def web_uis(containers: Sequence[Container]) -> Sequence[WebUi]:
    """Return the web UIs that the LAN can open, in inventory order; the gateway has a start page of its own."""
    gateway, domain = gateway_of(containers), domain_of(containers)
    return [
        WebUi(name, container, endpoint, None if service.publishes_web_uis else gateway, domain)
        for container in containers
        for name, service in container.services.items()
        for endpoint in service.endpoints()
        if endpoint.web_ui and (gateway or endpoint.audience == "lan")
    ]


def published_web_uis(containers: Sequence[Container]) -> Sequence[WebUi]:
    """Return the web UIs that the gateway serves; none without one."""
    return [ui for ui in web_uis(containers) if ui.gateway]


def start_page_url(containers: Sequence[Container]) -> str:
    """Return the address of the gateway's start page, or an empty text."""
    gateway = gateway_of(containers)
    return next((ui.url for ui in web_uis(containers) if ui.container is gateway and ui.gateway is None), "")


def published_url(containers: Sequence[Container], service: str) -> str:
    """Return the address at which the gateway serves a service, or an empty text."""
    return next((ui.url for ui in published_web_uis(containers) if ui.service == service), "")


def published_names(containers: Sequence[Container]) -> set[str]:
    """Return the host names of the gateway: the domain, and a name below it for each web UI; none without a domain."""
    domain = domain_of(containers)
    return {domain, *(ui.name for ui in published_web_uis(containers))} if domain else set()
