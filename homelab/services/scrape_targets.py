"""The targets of Prometheus, from the endpoints of all services of the inventory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from homelab.model import Endpoint, Inventory
from homelab.model.web_uis import WebUi, published_web_uis
from homelab.services.caddy_config import health_path

Target = Mapping[str, Any]  # an entry of a file for Prometheus' `file_sd_configs`


def targets(inventory: Inventory) -> Sequence[Target]:
    """Return one target for each endpoint with metrics; a container without an address yet has none."""
    return [
        {
            "targets": [f"{container.known_address}:{endpoint.port}"],
            "labels": {
                "job": name,
                "container": container.name,
                "__metrics_path__": endpoint.metrics_path,
                "__scheme__": "https" if endpoint.tls else "http",
            },
        }
        for container in inventory.containers
        for name, service in container.services.items()
        for endpoint in service.endpoints()
        if endpoint.metrics_path and container.known_address
    ]


def probe_targets(inventory: Inventory) -> Sequence[Target]:
    """Return one target of the blackbox exporter for each endpoint that is open to the LAN, if only over the gateway.

    A firewall keeps the exporter away from all others.
    """
    published = published_web_uis(inventory.containers)
    return [
        *(_of_gateway(ui) for ui in published if ui.gateway and ui.gateway.known_address),
        *_open_endpoints(inventory, [(ui.container.name, ui.endpoint) for ui in published]),
    ]


def _of_gateway(ui: WebUi) -> Target:
    labels = {"container": ui.container.name, "service": ui.service, "__param_module": "http"}
    # The gateway's own login covers all paths of a web UI that has none, and containers cannot resolve its names.
    own, start = f"{ui.url}{ui.endpoint.health_path or '/'}", f"https://{ui.host.address}{health_path(ui)}"
    return {"targets": [own if ui.endpoint.credentials and not ui.domain else start], "labels": labels}


def _open_endpoints(inventory: Inventory, published: Collection[tuple[str, Endpoint]]) -> Sequence[Target]:
    return [
        {
            "targets": [
                f"{endpoint.url(str(container.known_address))}{endpoint.health_path or '/'}"
                if endpoint.protocol == "http"
                else f"{container.known_address}:{endpoint.port}"
            ],
            "labels": {"container": container.name, "service": name, "__param_module": endpoint.protocol},
        }
        for container in inventory.containers
        for name, service in container.services.items()
        for endpoint in service.endpoints()
        if endpoint.audience == "lan" and container.known_address and (container.name, endpoint) not in published
    ]
