"""`homelab doctor`: checks of the prerequisites, each with the action that helps. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from homelab.errors import HomelabError
from homelab.model import Inventory, Secret, Weather
from homelab.proxmox import Client
from homelab.proxmox.checks import Answering, Check, proxmox_checks
from homelab.proxmox.service_tokens import check_token
from homelab.runtime.address_probe import addresses_in_use
from homelab.runtime.lockout import lockout_notes
from homelab.runtime.patch_level import patch_levels
from homelab.runtime.session import Session
from homelab.secrets import openweather_key

_WEATHER_TIMEOUT = 10  # seconds
_UNAUTHORIZED, _NOT_FOUND, _TOO_MANY = 401, 404, 429


@dataclass(frozen=True)
class Diagnosis:
    """Every check, in order."""

    checks: Sequence[Check]
    healthy: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "healthy", all(check.ok for check in self.checks))


def ask_openweather(weather: Weather, key: Secret) -> int:
    """Return the HTTP status of one request with this key. Raises HomelabError without an answer."""
    import requests

    try:
        # Any coordinates will do: only the acceptance of the key matters.
        return requests.get(
            f"{weather.api_url}/data/2.5/weather",
            timeout=_WEATHER_TIMEOUT,
            params={"lat": "0", "lon": "0", "appid": key.reveal()},
        ).status_code
    except requests.RequestException as error:
        # Not the text of the error: it contains the URL with the key.
        raise HomelabError(
            f"Cannot check the OpenWeather key: {weather.api_url} does not answer",
            f"{type(error).__name__}.",
            "Check the internet connection of this machine. The containers need it, too.",
        ) from None


def doctor(
    inventory: Inventory,
    *,
    ask: Callable[[Weather, Secret], int] = ask_openweather,
    now: Callable[[], float] = time.time,
    addresses_in_use: Answering = addresses_in_use,
    session: Session | None = None,
) -> Diagnosis:
    """Run all checks; a check that cannot be run has failed. `ask` returns OpenWeather's HTTP status.

    With a `session`, the containers that were reached before are checked, too.
    """
    containers = [*_service_tokens(session), *_patches(session)] if session else ()
    has_weather = any(pipeline.is_weather for pipeline in inventory.pipelines)
    openweather = [_openweather(inventory.weather, ask)] if inventory.weather and has_weather else []
    return Diagnosis([*_proxmox(inventory, now, addresses_in_use), *containers, *openweather])


def _proxmox(inventory: Inventory, now: Callable[[], float], addresses_in_use: Answering) -> Iterator[Check]:
    try:
        client = Client(inventory.endpoint)
    except HomelabError as error:
        yield Check.of("token", error)
        return
    yield from proxmox_checks(client, inventory, now, addresses_in_use)
    for note in lockout_notes(inventory, inventory.containers):
        yield Check("firewall", False, str(note))


def _service_tokens(session: Session) -> Iterator[Check]:
    for _, service in session.inventory.services():
        for token in service.proxmox_tokens():
            yield check_token(session.inventory.endpoint, token, session.secrets.known_secret(token.secret))


def _patches(session: Session) -> Iterator[Check]:
    for container, found in patch_levels(session).items():
        name = f"updates of {container}"
        if isinstance(found, HomelabError):
            yield Check.of(name, found)
        else:
            yield Check(name, found.ok, str(found), tuple(found.remedies()))


def _openweather(weather: Weather, ask: Callable[[Weather, Secret], int]) -> Check:
    name = "OpenWeather key"
    try:
        key = openweather_key(weather)
    except HomelabError as error:
        return Check.of(name, error)
    try:
        status = ask(weather, key)
    except HomelabError as error:
        return Check.of(name, error)
    if status == _UNAUTHORIZED:
        return Check(
            name,
            False,
            "OpenWeather does not accept it (401)",
            ("A new key becomes valid within two hours. Compare an older key with your account.",),
        )
    if status == _TOO_MANY:
        return Check(
            name,
            False,
            "OpenWeather has received too many requests (429)",
            ("Reduce the cities or the schedule in the inventory: the free plan has 60 requests per minute.",),
        )
    # OpenWeather answers 404 only if it accepts the key.
    return (
        Check(name, True, "accepted")
        if status < 400 or status == _NOT_FOUND
        else Check(name, False, f"{weather.api_url} answers {status}", ("Try again later.",))
    )
