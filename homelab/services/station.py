"""The service station: receives the readings of a weather station and appends them to the raw tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from homelab.errors import InputError
from homelab.host import Result
from homelab.model import DatabaseGrant, Endpoint, Health, Service, ServiceContext, Step
from homelab.model.options import Option, SecretName
from homelab.model.weather_settings import CITY_EXPECTED, CITY_NAME, TIMEZONE, TIMEZONE_EXPECTED, timezone_error
from homelab.pipelines.weather import city_names
from homelab.render import render
from homelab.services.raw_writer import RawWriter

_WRITER = RawWriter("station", "station_receiver", "receiver")
_SILENT = 3600  # seconds without a reading, after which it is reported; a station posts at least every few minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Station(Service):
    """Receives the readings of a weather station over HTTP, in Ecowitt's upload protocol, as those of one more city."""

    requires: ClassVar[tuple[str, ...]] = ("postgres",)
    minimum_memory: ClassVar[int] = 64

    city: Annotated[str, Option("Name of the city of its readings.", pattern=CITY_NAME, expected=CITY_EXPECTED)]
    latitude: Annotated[float, Option("Latitude in degrees.", low=-90, high=90)]
    longitude: Annotated[float, Option("Longitude in degrees.", low=-180, high=180)]
    passkey: Annotated[SecretName, Option("Secret with the passkey that the device sends: `PASSKEY`.")]
    timezone: Annotated[
        str | None,
        Option("IANA time zone, for `days: local`; default: UTC.", pattern=TIMEZONE, expected=TIMEZONE_EXPECTED),
    ] = None
    port: Annotated[int, Option("Port for the device.", low=1024, high=65535)] = 8090

    def option_errors(self) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an unknown time zone: the builds with local days would fail."""
        if error := timezone_error(self.timezone):
            yield ("timezone",), error

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Append to the raw tables."""
        return _WRITER.grants

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint for the device, which has no TLS."""
        return (
            Endpoint(
                name="readings",
                port=self.port,
                description="readings of the weather station",
                audience="lan",
                protocol="http",
                health_path="/health",
            ),
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder with its spool."""
        return _WRITER.sandbox.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return (_WRITER.unit,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for its counters; it cannot write other metrics."""
        return _WRITER.metric_commands

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, scripts, settings and unit.

        Raises InputError without the weather or its script, if it has the station's city, or for an unreadable file of
        cities.
        """
        weather = context.inventory.weather
        if weather and self.city in city_names(weather):
            raise InputError(
                f"Cannot deploy station: {self.city} is a city of the weather already",
                "Its readings and OpenWeather's would be mixed.",
                "Give the station's `city` another name.",
            )
        settings = render(
            "station/station.env.j2",
            options=self,
            passkey=context.user_secrets([self.passkey])[self.passkey].reveal(),
            schedule=weather.schedule if weather else "",
        )
        return _WRITER.steps(context, settings, {})

    def health_probes(self) -> Sequence[str]:
        """Return the commands for the state of its unit, its last report, and the container's time."""
        return _WRITER.health_probes

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it runs, has stored its readings, and gets new ones."""
        if not answers[0].ok:
            return Health(False, "does not run")
        if not answers[1].ok or not answers[1].text:
            return Health(False, "has not reported yet")
        state = json.loads(answers[1].text)
        shown = f"{int(state['stored'])} readings stored, {int(state['quarantined'])} refused"
        if state["problem"]:
            return Health(False, f"readings wait for PostgreSQL: {state['problem']}; {shown}", state, ready=True)
        if state["last_reading"] is None:
            hint = f"enter port {self.port} and the path /data/report/ in the device"
            return Health(False, f"no reading since its start: {hint}", state, ready=True)
        last = datetime.fromtimestamp(float(state["last_reading"]), UTC)
        if int(answers[2].text) - last.timestamp() > _SILENT:
            return Health(False, f"no reading since {last:%Y-%m-%d %H:%M} UTC: check the device", state, ready=True)
        return Health(True, f"{shown}, the last one at {last:%H:%M} UTC", state)
