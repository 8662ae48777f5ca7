"""`homelab open`: the address of a service's web UI, or of the start page."""

from __future__ import annotations

from collections.abc import Sequence

from homelab.errors import InputError
from homelab.model import Inventory
from homelab.model.web_uis import WebUi, gateway_of, web_uis
from homelab.runtime.container_addresses import locate


def web_address(inventory: Inventory, service: str | None) -> str:
    """Return the URL of a web UI; without a service, that of the start page, or of the only web UI.

    Raises InputError for an unknown one; the error lists the services with a web UI.
    """
    inventory = locate(inventory)
    found = web_uis(inventory.containers)
    if service is None:
        gateway = gateway_of(inventory.containers)
        chosen = [ui for ui in found if gateway is None or (ui.container.name == gateway.name and ui.gateway is None)]
    else:
        chosen = [ui for ui in found if ui.service == service]
    if len(chosen) == 1 or (service and chosen):
        return chosen[0].url
    raise _unknown(service, found)


def _unknown(service: str | None, found: Sequence[WebUi]) -> InputError:
    names = ", ".join(dict.fromkeys(ui.service for ui in found)) or "none"
    cause = f"`{service}` has no web UI in the inventory" if service else "the inventory has no start page"
    return InputError(
        f"Cannot open a web UI: {cause}",
        f"Services with a web UI: {names}.",
        "Name one of them: `homelab open SERVICE`. The service `gateway` adds a start page.",
    )
