"""backfill_api.py: OpenWeather's history API, from the replay server, into PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homelab.lab.observations import load
from homelab.runtime.backfills import Backfilled
from tests.integration.conftest import KEY, replay_server
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.integration.waiting import until
from tests.scripts import SCRIPTS

from contract import EXIT  # isort: skip

STATIONS = {"Newark,US": "EWR", "Queens,US": "JFK"}
JANUARY = ("--from", "2013-01-01", "--to", "2013-02-01")


def backfill(
    stack: Stack, *options: str, expect: int = 0, cities: Sequence[str] = tuple(STATIONS), **environment: str
) -> tuple[Backfilled, str]:
    done = stack.script("backfill_api.py", *options, expect=expect, **settings(cities), **environment)
    return Backfilled(**json.loads(done.stdout.splitlines()[-1])), done.stderr


def settings(cities: Sequence[str]) -> dict[str, str]:
    return {
        "WEATHER_CITIES": json.dumps([{"name": name} for name in cities]),
        "OPENWEATHER_RATE_LIMIT": "0",
        "OPENWEATHER_UNITS": "metric",
    }


def hours(city: str, first: datetime, end: datetime) -> list[int]:
    """Return the data set's times from `first` to before `end`."""
    return [int(seen.time.timestamp()) for seen in load()[STATIONS[city]] if first <= seen.time < end]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def stored(stack: Stack) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for city, data in stack.raw():
        found.setdefault(city, []).append(data["dt"])
    return {city: sorted(times) for city, times in found.items()}


def test_repeated_month_of_two_cities_stores_nothing_more(stack: Stack) -> None:
    first, _ = backfill(stack, *JANUARY)
    expected = {city: hours(city, day("2013-01-01"), day("2013-02-01")) for city in STATIONS}
    assert stored(stack) == expected
    assert (first.stored, first.requests, first.failed) == (sum(map(len, expected.values())), 10, {})

    again, _ = backfill(stack, *JANUARY)
    assert (again.stored, again.requests + again.complete_weeks) == (0, 10)
    assert again.complete_weeks >= 5, "complete weeks are not requested again"
    more, _ = backfill(stack, "--from", "2013-01-29", "--to", "2013-02-03", "--city", "Queens,US")
    assert more.stored == len(hours("Queens,US", day("2013-02-01"), day("2013-02-03")))
    with stack.server.connect(stack.database, "dbt", "dbt") as connection:
        rows = connection.execute(
            "select distinct units, data ?& array['main', 'wind', 'weather'] from raw.weather_observations"
        ).fetchall()
        runs = connection.execute("select asked, stored, requests from raw.ingestion_runs order by started").fetchall()
    assert rows == [("metric", True)]
    assert runs[0] == (first.stored, first.stored, 10)
    assert not (stack.data / "history.progress").exists()


def test_replacement_requests_complete_weeks_again(stack: Stack) -> None:
    period = ("--from", "2013-01-01", "--to", "2013-01-08", "--city", "Newark,US")
    stored_first, _ = backfill(stack, *period, "--units", "imperial")
    again, _ = backfill(stack, *period, "--units", "imperial", "--replace")
    assert (again.stored, again.replaced, again.unchanged) == (0, 0, stored_first.stored)
    corrected, _ = backfill(stack, *period, "--replace")  # metric
    assert (corrected.replaced, corrected.units) == (stored_first.stored, {"metric": stored_first.stored})
    refused = stack.script(
        "backfill_api.py", *period[:4], "--city", "Neewark,US", expect=EXIT.bad_input, **settings(["Newark,US"])
    )
    assert "unknown city 'Neewark,US'" in refused.stderr


def test_refused_key_an_unknown_city_and_invalid_days_have_their_own_status(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "free"
    folder.mkdir()
    with replay_server(folder, "--no-history") as free:
        refused, errors = backfill(stack, *JANUARY, expect=EXIT.key_refused, OPENWEATHER_BASE_URL=free.url)
        assert refused.requests <= 8  # those that were sent in parallel
        assert "HTTP 401" in errors
    partial, errors = backfill(
        stack, *JANUARY, expect=EXIT.partial, cities=["Nowhere,XX", "Newark,US"], OPENWEATHER_CONCURRENCY="1"
    )
    assert errors == "error: Nowhere,XX: HTTP 404: city not found\n"
    assert (partial.stored, partial.requests) == (len(hours("Newark,US", day("2013-01-01"), day("2013-02-01"))), 6)
    for days in (("--from", "2013-02-01", "--to", "2013-01-01"), ("--from", "2099-01-01")):
        invalid = stack.script("backfill_api.py", *days, expect=EXIT.bad_input, **settings(["A"]))
        assert "--from must be before --to" in invalid.stderr


def test_killed_backfill_continues_where_it_stopped(stack: Stack) -> None:
    command: list[Any] = [
        str(stack.python),
        str(SCRIPTS / "backfill_api.py"),
        "--from",
        "2013-01-01",
        "--to",
        "2013-03-01",
    ]
    slow = {**settings(["Newark,US"]), "OPENWEATHER_RATE_LIMIT": "3", "OPENWEATHER_CONCURRENCY": "1"}
    first = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            "PYTHONPATH": os.environ["PYTHONPATH"],
            **stack.server.environment(stack.database, "analytics", "analytics"),
            "WEATHER_DATA": str(stack.data),
            "OPENWEATHER_BASE_URL": stack.base_url,
            "OPENWEATHER_API_KEY": KEY,
            **slow,
        },
    )
    try:
        progress = stack.data / "history.progress"
        until(lambda: progress.exists() and progress.read_text().startswith("3 of 9"), 30)
        second = stack.script("backfill_api.py", *command[2:], expect=EXIT.busy, **slow)
        assert "another backfill is running" in second.stderr
    finally:
        first.kill()
        first.wait()
    before = stored(stack)["Newark,US"]
    rest, _ = backfill(stack, *command[2:], cities=["Newark,US"])
    expected = hours("Newark,US", day("2013-01-01"), day("2013-03-01"))
    assert before == expected[: len(before)]
    assert stored(stack) == {"Newark,US": expected}
    assert rest.stored == len(expected) - len(before)
    assert rest.complete_weeks >= 1
