"""The groups of further services that `homelab demo --with` adds to the lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homelab.errors import InputError
from homelab.lab.settings import Lab
from homelab.model import Inventory
from homelab.model.stages import ANALYTICS
from homelab.private_files import write_private

_CONTAINER = "observability"
_SHAPE = {"vmid": 170, "ip": ".70", "cores": 1, "memory": 1024, "disk": 8}


@dataclass(frozen=True, slots=True)
class Group:
    """Services with their options, on the container `observability` or next to the service `analytics`.

    With `monitored`, each container gets its exporters.
    """

    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    with_analytics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    monitored: bool = False


_MONITORING: Mapping[str, Mapping[str, Any]] = {"prometheus": {}, "blackbox_exporter": {}}
_ALERTS = "alerts"
GROUPS: Mapping[str, Group] = {
    "gateway": Group({"gateway": {}}, {ANALYTICS: {"docs": True}}),
    "superset": Group(with_analytics={"superset": {}}),
    "monitoring": Group(_MONITORING, monitored=True),
    _ALERTS: Group({**_MONITORING, "alertmanager": {}}, monitored=True),
}


def check_groups(names: Sequence[str]) -> None:
    """Raise InputError for an unknown group."""
    if unknown := [name for name in names if name not in GROUPS]:
        raise InputError(
            f"Cannot add {', '.join(f'`{name}`' for name in unknown)} to the demo: no such group",
            f"Groups: {', '.join(GROUPS)}.",
            f"For example: `homelab demo --with {','.join(GROUPS)}`",
        )


def write_groups(lab: Lab, inventory: Inventory, names: Sequence[str]) -> None:
    """Write the overlay with the groups over an inventory of the lab; existing services keep their container.

    Raises InputError if a group needs a container with `analytics` and there is none.
    """
    import yaml

    text = "# Written by `homelab demo --with`: further services of the lab.\n"
    text += yaml.safe_dump(_overlay(lab, inventory, names), sort_keys=False)
    write_private(lab.groups_overlay, text.encode())


def _overlay(lab: Lab, inventory: Inventory, names: Sequence[str]) -> Mapping[str, Any]:
    groups = [GROUPS[name] for name in names]
    containers: dict[str, Any] = {}

    def add(place: str, services: Mapping[str, Mapping[str, Any]]) -> None:
        for service, options in services.items():
            found = inventory.containers_with(service)
            name = found[0].name if found else place
            containers.setdefault(name, {"services": {}})["services"][service] = dict(options)

    for group in groups:
        add(_CONTAINER, group.services)
        if group.with_analytics:
            add(inventory.container_with(ANALYTICS).name, group.with_analytics)
    if _CONTAINER in containers and not any(each.name == _CONTAINER for each in inventory.containers):
        containers[_CONTAINER] |= _SHAPE
    overlay: dict[str, Any] = {"containers": containers}
    if any(group.monitored for group in groups):
        overlay["defaults"] = {"monitoring": True}
    if _ALERTS in names:  # only within this machine
        others = dict.fromkeys(("email", "slack", "urls"))
        overlay["alerts"] = {**others, "webhook": lab.messages_url}
    return overlay
