"""The broker's stream of the weather, from the broker_contract.json that is shipped with the scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from homelab.model import Endpoint, Inventory
from homelab.model.options import Size
from homelab.paths import bundled_path

_CONTRACT: dict[str, Any] = json.loads(bundled_path("pipelines/weather/scripts/broker_contract.json").read_text())
STREAM: Final[str] = _CONTRACT["stream"]
SHARED_PARTS: Final[int] = _CONTRACT["parts"]
GROUP: Final[str] = _CONTRACT["consumer"]  # of Kafka
# The durable consumers with their subjects: one for each part of the observations, and one for the runs.
CONSUMERS: Final[dict[str, str]] = {
    **{f"{GROUP}-{part}": f"{_CONTRACT['observations']}.{part}" for part in range(SHARED_PARTS)},
    f"{GROUP}-{_CONTRACT['runs'].rpartition('.')[2]}": _CONTRACT["runs"],
}


_SCHEMES = {"nats": "tls", "kafka": "kafka"}  # of the URL, by the broker's endpoint


class _HasLimit(Protocol):
    disk: Size


def broker_variables(inventory: Inventory, user: str, ca_file: str, password: str = "") -> Mapping[str, str]:
    """Return the variables of a client of the broker; without `password`, the password is in another file."""
    endpoint = _endpoint(inventory)
    variables = {
        "URL": f"{_SCHEMES[endpoint.name]}://{inventory.container_with('broker').address}:{endpoint.port}",
        "USER": user,
        **({"PASSWORD": password} if password else {}),
        "CA_FILE": ca_file,
    }
    return {f"{endpoint.name.upper()}_{name}": value for name, value in variables.items()}


def publisher_variables(inventory: Inventory) -> Mapping[str, str]:
    """Return further variables of the ingestion: Kafka refuses no message, so the ingestion does."""
    service = cast(_HasLimit, inventory.container_with("broker").services["broker"])
    return {"KAFKA_LIMIT": str(service.disk.bytes)} if _endpoint(inventory).name == "kafka" else {}


def password_variable(inventory: Inventory) -> str:
    """Return the name of the variable with the password of a client of the broker."""
    return f"{_endpoint(inventory).name.upper()}_PASSWORD"


def _endpoint(inventory: Inventory) -> Endpoint:
    (endpoint,) = inventory.container_with("broker").services["broker"].endpoints()
    return endpoint
