"""Web UIs of services, and their addresses: those of the services themselves, or ports of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model.container import Container
from homelab.model.endpoints import Endpoint

OFFSET = 10_000  # from the port of a web UI to that of the gateway


@dataclass(frozen=True, slots=True)
class WebUi:
    """A web UI: its service and endpoint, and the container of the gateway that serves it, if one does.

    The gateway has one port for each web UI, and not one path: not every program can live below a path, and a browser
    keeps programs apart by their ports.
    """

    service: str
    container: Container
    endpoint: Endpoint
    gateway: Container | None

    @property
    def port(self) -> int:
        """The port of the gateway."""
        return self.endpoint.port + OFFSET

    @property
    def host(self) -> Container:
        """The container that people open: the gateway, or that of the service."""
        return self.gateway or self.container

    @property
    def url(self) -> str:
        """The address for people."""
        address = str(self.host.address)
        return f"https://{address}:{self.port}" if self.gateway else self.endpoint.url(address)


def gateway_of(containers: Sequence[Container]) -> Container | None:
    """Return the container whose service publishes all web UIs, or None."""
    return next((each for each in containers if any(s.publishes_web_uis for s in each.services.values())), None)


def web_uis(containers: Sequence[Container]) -> Sequence[WebUi]:
    """Return the web UIs that the LAN can open, in inventory order; the gateway has a start page of its own."""
    gateway = gateway_of(containers)
    return [
        WebUi(name, container, endpoint, None if service.publishes_web_uis else gateway)
        for container in containers
        for name, service in container.services.items()
        for endpoint in service.endpoints()
        if endpoint.web_ui and (gateway or endpoint.audience == "lan")
    ]


def published_web_uis(containers: Sequence[Container]) -> Sequence[WebUi]:
    """Return the web UIs that the gateway serves; none without one."""
    return [ui for ui in web_uis(containers) if ui.gateway]


def published_url(containers: Sequence[Container], service: str) -> str:
    """Return the address at which the gateway serves a service, or an empty text."""
    return next((ui.url for ui in published_web_uis(containers) if ui.service == service), "")
