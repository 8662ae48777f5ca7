"""The ports that a container closes to all but their clients: restricted endpoints, and web UIs of a gateway."""

from __future__ import annotations

from collections.abc import Iterator

from homelab.model import Endpoint, ServiceContext, Step
from homelab.model.firewall import clients
from homelab.model.web_uis import published_web_uis
from homelab.render import render
from homelab.services.monitoring import SETTINGS
from homelab.steps import Directory, File, Packages, SystemdUnit

UNIT = "homelab-closed-ports.service"
TABLE = "homelab_closed_ports"
_RULES = f"{SETTINGS}/closed-ports.nft"
_PART = "the closed ports"


def closed_ports(context: ServiceContext) -> Iterator[Step]:
    """Yield the rules that admit only its clients to each of these ports, and the unit that loads the rules.

    The rules apply with Proxmox's firewall and without it, but not to programs in the container itself. If the unit
    cannot load them, the deploy of the container continues.
    """
    ports = {
        endpoint.port: sorted(
            {source for source, _ in clients(context.inventory, context.container, service, endpoint)}
        )
        for service, endpoint in _closed(context)
    }
    if not ports:
        return
    rules = File(_RULES, render("closed_ports/closed-ports.nft.j2", table=TABLE, ports=ports))
    text = render("closed_ports/closed-ports.service.j2", rules=rules.path, table=TABLE)
    unit = File(f"/etc/systemd/system/{UNIT}", text)
    yield Directory(SETTINGS)
    yield Packages(["nftables"])
    yield rules
    yield unit
    yield SystemdUnit(UNIT, triggered_by=[rules, unit], settle=0, part=_PART)


def _closed(context: ServiceContext) -> Iterator[tuple[str, Endpoint]]:
    """Yield the closed endpoints of the container, each with the name of its service."""
    for ui in published_web_uis(context.inventory.containers):
        if ui.container.name == context.container.name:
            yield ui.service, ui.endpoint
    for name, service in context.container.services.items():
        yield from ((name, endpoint) for endpoint in service.endpoints() if endpoint.restricted)
