"""A replay of real weather with OpenWeather's current-weather API, including its error responses.

`python -m homelab.lab.openweather --host H --port P --key-file F --state FILE [--clock step|real] [--generated N]`.
With the clock `step`, each request for a city returns that city's next observation; the state file keeps the position,
and the last observation is followed by the first. POST /_skip?appid=KEY with {"hours": N} moves it past the first N
hours of the data set. With `real` it returns the observation of this hour of the year.
`dt` is the data set's own time. Cities without a station get derived weather, see derived_weather.py.
`--generated` adds that many cities with the ids 1, 2, …: each has the weather of one of the stations, and moves to the
next observation only after POST /_hour?appid=KEY.
The history API has all hours of the real cities, one week per request; with `--no-history` the key is of the free plan.
With `--messages`, POST /messages appends a message about an incident to that file.
Tests inject failures: POST /_faults?appid=KEY with {"status": 429, "times": 2, "retry_after": 1, "delay": 0, "q": …}.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from homelab.lab import messages
from homelab.lab.derived_weather import derive_place
from homelab.lab.observations import PLACES, Observation, Place, answer, load
from homelab.lab.replay_clocks import Steps, ThisHour, observation
from homelab.lab.settings import MESSAGES

_WEEK = 7 * 86400  # seconds
_IN_HISTORY = ("dt", "main", "wind", "clouds", "weather", "rain", "snow")
_NEAR = 0.5  # degrees: the largest distance between a point and the station that represents it
_BLOCKED = (
    "Your account is temporary blocked due to exceeding of requests limitation of your subscription type. "
    "Please choose the proper subscription https://openweathermap.org/price"
)
_BAD_KEY = "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info."


class Refusal(Exception):
    """An error response: its status, its message, and `cod` with the type that OpenWeather uses in that response."""

    def __init__(self, status: int, message: str, cod: int | str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"cod": cod, "message": message}


@dataclass(slots=True, kw_only=True)
class Fault:
    """A failure that a test injects into the next `times` requests, or into those for one city."""

    status: int
    times: int = 1
    retry_after: int | None = None
    delay: float = 0
    q: str | None = None


class Generated:
    """Generated cities with the weather of the real stations, each shifted by a different number of hours."""

    def __init__(self, count: int, stations: Mapping[str, Sequence[Observation]]) -> None:
        self.hour = 0
        self._count, self._stations = count, stations

    def __call__(self, query: Mapping[str, str]) -> tuple[Place, Observation] | None:
        """Return the generated city that a request names by id with its observation, or None."""
        text = query.get("id", "")
        number = int(text) if text.isdecimal() else 0
        if not 1 <= number <= self._count:
            return None
        near = PLACES[number % len(PLACES)]
        rows = self._stations[near.station]
        place = replace(near, name=f"Generated {number}", id=number)
        return place, rows[(number + self.hour) % len(rows)]


def find(query: Mapping[str, str]) -> Place:
    """Return the place that a request names by id, coordinates or name. Raises Refusal as OpenWeather does."""
    if query.get("id"):
        found = [place for place in PLACES if str(place.id) == query["id"]]
    elif "lat" in query or "lon" in query:
        latitude, longitude = _degrees(query, "lat", 90), _degrees(query, "lon", 180)
        near = {place: math.dist((place.latitude, place.longitude), (latitude, longitude)) for place in PLACES}
        found = sorted((place for place in PLACES if near[place] <= _NEAR), key=near.__getitem__)
    elif query.get("q", "").strip():
        city, *rest = (part.strip().lower() for part in query["q"].split(","))
        found = [place for place in PLACES if place.name.lower() == city and (not rest or rest[-1] == "us")]
    else:
        raise Refusal(400, "Nothing to geocode", "400")
    place = found[0] if found else derive_place(query)
    if place is None:
        raise Refusal(404, "city not found", "404")
    return place


def _degrees(query: Mapping[str, str], name: str, limit: int) -> float:
    word = {"lat": "latitude", "lon": "longitude"}[name]
    try:
        value = float(query[name])
    except (KeyError, ValueError):
        raise Refusal(400, f"wrong {word}", "400") from None
    if not -limit <= value <= limit:
        raise Refusal(400, f"wrong {word}", "400")
    return value


def history(query: Mapping[str, str], stations: Mapping[str, Sequence[Observation]]) -> dict[str, Any]:
    """Answer a request of the history API. Raises Refusal."""
    place = find(query)
    try:
        start = int(query["start"])
        end = int(query["end"]) if "end" in query else start + 3600 * (int(query["cnt"]) - 1)
    except (KeyError, ValueError):
        raise Refusal(400, "wrong start, end or cnt", "400") from None
    rows = stations[place.station]
    if query.get("type") != "hour" or not 0 <= end - start <= _WEEK:
        raise Refusal(400, "the type has to be hour, and the period a week at most", "400")
    answers = [
        answer(place, observation(place, rows, index), query.get("units", "standard"))
        for index, row in enumerate(rows)
        if start <= row.time.timestamp() <= end
    ]
    hours = [{key: one[key] for key in _IN_HISTORY if key in one} for one in answers]
    return {
        "message": f"Count: {len(hours)}",
        "cod": "200",
        "city_id": place.id,
        "calctime": 0.01,
        "cnt": len(hours),
        "list": hours,
    }


def application(
    key: str,
    choose: Callable[[Place], Observation],
    generated: Generated | None = None,
    past: Mapping[str, Sequence[Observation]] | None = None,
) -> web.Application:
    """Build the server for one API key; `choose` is the clock, and without `past` there is no history API."""
    faults: list[Fault] = []

    def admit(request: web.Request) -> None:
        if not hmac.compare_digest(request.query.get("appid", "").encode(), key.encode()):
            raise Refusal(401, _BAD_KEY, 401)

    async def fail(query: Mapping[str, str]) -> web.Response | None:
        for fault in faults:
            if fault.q in (None, query.get("q")):
                fault.times -= 1
                if fault.times <= 0:
                    faults.remove(fault)
                await asyncio.sleep(fault.delay)
                headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                message = _BLOCKED if fault.status == 429 else "Internal server error"
                return web.json_response(
                    {"cod": fault.status, "message": message}, status=fault.status, headers=headers
                )
        return None

    async def weather(request: web.Request) -> web.Response:
        admit(request)
        failed = await fail(request.query)
        if failed is not None:
            return failed
        made = generated and generated(request.query)
        if made:
            place, seen = made
        else:
            place = find(request.query)
            seen = choose(place)
        return web.json_response(answer(place, seen, request.query.get("units", "standard")))

    async def city_history(request: web.Request) -> web.Response:
        admit(request)
        failed = await fail(request.query)
        if failed is None and past is None:
            raise Refusal(401, _BAD_KEY, 401)
        return failed or web.json_response(history(request.query, past or {}))

    async def next_hour(request: web.Request) -> web.Response:
        admit(request)
        if generated is None:
            raise Refusal(404, "Internal error: there are no generated cities", 404)
        generated.hour += 1
        return web.json_response({"hour": generated.hour})

    async def skip(request: web.Request) -> web.Response:
        admit(request)
        hours = (await request.json()).get("hours")
        if not isinstance(choose, Steps) or not isinstance(hours, int):
            raise Refusal(400, "needs the clock step, and a number of hours", "400")
        choose.skip(hours)
        return web.json_response({"hours": hours})

    async def inject(request: web.Request) -> web.Response:
        admit(request)
        try:
            faults.append(Fault(**await request.json()))
        except (TypeError, ValueError) as error:
            raise Refusal(400, str(error), "400") from error
        return web.json_response({"faults": len(faults)})

    async def clear(request: web.Request) -> web.Response:
        admit(request)
        faults.clear()
        return web.json_response({"faults": 0})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(middlewares=[_refusals])
    app.add_routes(
        [
            web.get("/data/2.5/weather", weather),
            web.get("/healthz", healthz),
            web.get("/data/2.5/history/city", city_history),
            web.post("/_faults", inject),
            web.delete("/_faults", clear),
            web.post("/_hour", next_hour),
            web.post("/_skip", skip),
        ]
    )
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.body, status=refusal.status)
    return response


def main(words: Sequence[str] | None = None) -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(
        prog="python -m homelab.lab.openweather", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--key-file", required=True, type=Path)
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--clock", choices=["step", "real"], default="step")
    parser.add_argument("--generated", type=int, default=0, metavar="N", help="number of generated cities")
    parser.add_argument("--messages", type=Path, help="file for the messages about incidents that it receives")
    parser.add_argument("--no-history", action="store_true", help="the key is of the free plan")
    options = parser.parse_args(words)
    stations = load()
    choose = Steps(options.state, stations) if options.clock == "step" else ThisHour(stations)
    # No access log: it would contain the key, which is part of every URL.
    app = application(
        options.key_file.read_text().strip(),
        choose,
        Generated(options.generated, stations),
        None if options.no_history else stations,
    )
    if options.messages:
        app.router.add_post(MESSAGES, messages.receive(options.messages))
    web.run_app(app, host=options.host, port=options.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
