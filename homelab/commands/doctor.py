"""`homelab doctor`: what has to be so before the rest can work, each ok or with what to do. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from homelab.errors import HomelabError
from homelab.model import Inventory, Pipeline, Secret
from homelab.proxmox import Client
from homelab.proxmox.checks import Answering, Check, proxmox_checks
from homelab.runtime.address_probe import addresses_in_use
from homelab.runtime.lockout import lockout_notes
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


def ask_openweather(pipeline: Pipeline, key: Secret) -> int:
    """The HTTP status of one harmless question with this key. Raises HomelabError where no answer comes."""
    import requests

    try:
        # The coordinates are nobody's: only whether the key is accepted is asked.
        return requests.get(
            f"{pipeline.api_url}/data/2.5/weather",
            timeout=_WEATHER_TIMEOUT,
            params={"lat": "0", "lon": "0", "appid": key.reveal()},
        ).status_code
    except requests.RequestException as error:
        # Not the error's own text: it has the URL, and the key in it.
        raise HomelabError(
            f"{pipeline.api_url} does not answer",
            f"{type(error).__name__}.",
            "Is this machine online? The containers need to reach it, too.",
        ) from None


def doctor(
    inventory: Inventory,
    *,
    ask: Callable[[Pipeline, Secret], int] = ask_openweather,
    now: Callable[[], float] = time.time,
    addresses_in_use: Answering = addresses_in_use,
) -> Diagnosis:
    """Look at everything; what cannot be asked is a check that is not ok. `ask` gives OpenWeather's HTTP status."""
    return Diagnosis([*_proxmox(inventory, now, addresses_in_use), _openweather(inventory.pipeline, ask)])


def _proxmox(inventory: Inventory, now: Callable[[], float], addresses_in_use: Answering) -> Iterator[Check]:
    try:
        client = Client(inventory.endpoint)
    except HomelabError as error:
        yield Check.of("token", error)
        return
    yield from proxmox_checks(client, inventory, now, addresses_in_use)
    for note in lockout_notes(inventory, inventory.containers):
        yield Check("firewall", False, str(note))


def _openweather(pipeline: Pipeline, ask: Callable[[Pipeline, Secret], int]) -> Check:
    name = "OpenWeather key"
    try:
        key = openweather_key(pipeline)
    except HomelabError as error:
        return Check.of(name, error)
    try:
        status = ask(pipeline, key)
    except HomelabError as error:
        return Check.of(name, error)
    if status == _UNAUTHORIZED:
        return Check(
            name,
            False,
            "OpenWeather does not accept it (401)",
            ("A new key is not valid for up to two hours: wait. An older one: compare it with your account.",),
        )
    if status == _TOO_MANY:
        return Check(
            name,
            False,
            "OpenWeather says that it was asked too often (429)",
            ("Fewer cities or a rarer schedule in the inventory; the free plan has 60 calls a minute.",),
        )
    # The place is not found only by those whose key was accepted.
    return (
        Check(name, True, "accepted")
        if status < 400 or status == _NOT_FOUND
        else Check(name, False, f"{pipeline.api_url} answers {status}", ("Try again later: it is their side.",))
    )
