"""The ports of web UIs, which a container closes to the LAN if a gateway serves them."""

from __future__ import annotations

from collections.abc import Iterator

from homelab.model import ServiceContext, Step
from homelab.model.firewall import clients
from homelab.model.web_uis import published_web_uis
from homelab.render import render
from homelab.services.monitoring import SETTINGS
from homelab.steps import Directory, File, Packages, SystemdUnit

UNIT = "homelab-web-ports.service"
TABLE = "homelab_web_ports"
_RULES = f"{SETTINGS}/web-ports.nft"
_PART = "the closed ports of web UIs"


def closed_web_ports(context: ServiceContext) -> Iterator[Step]:
    """Yield the rules that admit only its clients to each web UI of the container, and the unit that loads them.

    They hold with Proxmox's firewall and without it. Programs in the container itself are not limited. If they cannot
    be loaded, the rest of the container is deployed all the same.
    """
    ports = {
        ui.endpoint.port: sorted(
            source for source, _ in clients(context.inventory, context.container, ui.service, ui.endpoint)
        )
        for ui in published_web_uis(context.inventory.containers)
        if ui.container.name == context.container.name
    }
    if not ports:
        return
    rules = File(_RULES, render("web_ports/web-ports.nft.j2", table=TABLE, ports=ports))
    unit = File(f"/etc/systemd/system/{UNIT}", render("web_ports/web-ports.service.j2", rules=rules.path, table=TABLE))
    yield Directory(SETTINGS)
    yield Packages(["nftables"])
    yield rules
    yield unit
    yield SystemdUnit(UNIT, triggered_by=[rules, unit], settle=0, part=_PART)
