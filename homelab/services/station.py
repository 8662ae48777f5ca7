"""The service station: receives the readings of a weather station and appends them to the raw tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar

from homelab.errors import InputError
from homelab.host import Result, argv
from homelab.model import DatabaseGrant, Endpoint, Health, Pipeline, Service, ServiceContext, Step
from homelab.model.inventory import RAW, WEATHER
from homelab.model.options import Option, SecretName
from homelab.model.weather_settings import CITY_EXPECTED, CITY_NAME, TIMEZONE, TIMEZONE_EXPECTED, timezone_error
from homelab.paths import bundled_path
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.monitoring import SETTINGS
from homelab.services.postgres_client import client_file
from homelab.steps import Directory, File, Packages, SystemdUnit, Tree, UvInstall, Venv, WaitFor
from homelab.steps.queries import Query, psql_with

UNIT = "homelab-station.service"
_ROLE = "station_receiver"
_CLIENT, _ENVIRONMENT = f"{SETTINGS}/station-database.env", f"{SETTINGS}/station.env"
_SANDBOX = Sandbox("homelab-station", ("/var/lib/homelab-station",), (_CLIENT, _ENVIRONMENT))
_FOLDER = "/opt/homelab/station"
_SCRIPT = "station.py"
_SILENT = 3600  # seconds without a reading, after which it is reported; a station posts at least every few minutes
_METRIC = r"^homelab_station_[a-z_]+ [0-9]+$"


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
        return (DatabaseGrant(RAW[0], _ROLE, "append", RAW[1]),)

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
        return _SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return its unit."""
        return (UNIT,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for its counters; it cannot write other metrics."""
        read = _SANDBOX.read(f"{_SANDBOX.writable[0]}/metrics.prom")
        return {"station": f"{read} | grep -E '{_METRIC}' | sort -u -k1,1"}

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, scripts, settings and unit. Raises InputError without the weather, or its scripts."""
        pipeline, locks = self._weather(context), bundled_path("pipelines/shared/requirements")
        venv = Venv(f"{_FOLDER}/venv", (locks / "consumer.txt").read_bytes())
        trees = [
            Tree(f"{_FOLDER}/scripts", Tree.of("", pipeline.folder / "scripts", within=pipeline.folder).files),
            Tree.of(f"{_FOLDER}/shared", bundled_path("pipelines/shared/scripts")),
        ]
        settings = [client_file(context, _CLIENT, RAW[0], _ROLE), self._environment(context)]
        postgres = context.inventory.container_with("postgres")
        text = render("station/homelab-station.service.j2", venv=venv.path, folder=_FOLDER, sandbox=_SANDBOX)
        unit = File(f"/etc/systemd/system/{UNIT}", text)
        return (
            *_SANDBOX.account(),
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(_FOLDER),
            venv,
            *trees,
            *settings,
            WaitFor(
                f"{postgres.name} accepts {_ROLE}",
                Query(psql_with(_CLIENT), RAW[0], "select 1"),
                postgres.name,
                context.failed,
                context.wait_deadline(postgres),
            ),
            unit,
            SystemdUnit(UNIT, triggered_by=[venv, *trees, *settings, unit], settle=0),
        )

    def _weather(self, context: ServiceContext) -> Pipeline:
        """Return the weather. Raises InputError without it, without its script, or if it has the station's city."""
        pipeline, weather = context.inventory.pipeline(WEATHER), context.inventory.weather
        if not (pipeline.folder / "scripts" / _SCRIPT).exists():
            raise InputError(
                "Cannot deploy station: the copy of the weather has no receiver",
                f"{pipeline.folder} has no scripts/{_SCRIPT}.",
                "Move the folder away, run `homelab pipeline copy weather`, and make your changes again.",
            )
        if weather and self.city in [each.name for each in weather.cities]:
            raise InputError(
                f"Cannot deploy station: {self.city} is a city of the weather already",
                "Its readings and OpenWeather's would be mixed.",
                "Give the station's `city` another name.",
            )
        return pipeline

    def _environment(self, context: ServiceContext) -> File:
        weather = context.inventory.weather
        content = render(
            "station/station.env.j2",
            options=self,
            passkey=context.user_secrets([self.passkey])[self.passkey].reveal(),
            schedule=weather.schedule if weather else "",
        )
        return File(_ENVIRONMENT, content, mode=0o600, secret=True)

    def health_probes(self) -> Sequence[str]:
        """Return the commands for the state of its unit, its last report, and the container's time."""
        read = _SANDBOX.read(f"{_SANDBOX.writable[0]}/state.json")
        return (argv("systemctl", "is-active", UNIT), read, "date +%s")

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
