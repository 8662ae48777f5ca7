"""`homelab pipeline backfill --from --to`: OpenWeather's history API, as the replay server has it, into Postgres."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.backfill import Backfilled
from homelab.lab.observations import load
from tests.integration.conftest import KEY, replaying
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCRIPTS

pytestmark = pytest.mark.timeout(180)
STATIONS = {"Newark,US": "EWR", "Queens,US": "JFK"}
JANUARY = ("--from", "2013-01-01", "--to", "2013-02-01")


def backfill(
    stack: Stack, *words: str, expect: int = 0, cities: Sequence[str] = tuple(STATIONS), **environment: str
) -> tuple[Backfilled, str]:
    done = stack.script("history_weather.py", *words, expect=expect, **settings(cities), **environment)
    return Backfilled(**json.loads(done.stdout.splitlines()[-1])), done.stderr


def settings(cities: Sequence[str]) -> dict[str, str]:
    return {
        "WEATHER_CITIES": json.dumps([{"name": name} for name in cities]),
        "OPENWEATHER_RATE_LIMIT": "0",
        "OPENWEATHER_UNITS": "metric",
    }


def hours(city: str, first: datetime, end: datetime) -> list[int]:
    """The times that the data set has, from `first` to before `end`."""
    return [int(seen.time.timestamp()) for seen in load()[STATIONS[city]] if first <= seen.time < end]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def stored(stack: Stack) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for city, data in stack.raw():
        found.setdefault(city, []).append(data["dt"])
    return {city: sorted(times) for city, times in found.items()}


def test_a_month_of_two_cities_and_once_more(stack: Stack) -> None:
    told, _ = backfill(stack, *JANUARY)
    wanted = {city: hours(city, day("2013-01-01"), day("2013-02-01")) for city in STATIONS}
    assert stored(stack) == wanted
    assert (told.stored, told.requests, told.failed) == (sum(map(len, wanted.values())), 10, {})

    again, _ = backfill(stack, *JANUARY)
    assert (again.stored, again.requests + again.whole) == (0, 10)
    assert again.whole >= 5, "what is stored whole is not asked for again"
    more, _ = backfill(stack, "--from", "2013-01-29", "--to", "2013-02-03", "--city", "Queens,US")
    assert more.stored == len(hours("Queens,US", day("2013-02-01"), day("2013-02-03")))
    with stack.server.connect(stack.database, "dbt", "dbt") as connection:
        rows = connection.execute(
            "select distinct units, data ?& array['main', 'wind', 'weather'] from raw.weather_observations"
        ).fetchall()
        runs = connection.execute("select asked, stored, requests from raw.ingestion_runs order by started").fetchall()
    assert rows == [("metric", True)]
    assert runs[0] == (told.stored, told.stored, 10)
    assert not (stack.data / "history.progress").exists()


def test_a_key_without_history_is_told_from_one_that_is_wrong_and_from_a_city(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "free"
    folder.mkdir()
    with replaying(folder, "--no-history") as free:
        told, said = backfill(stack, *JANUARY, expect=3, OPENWEATHER_BASE_URL=free.url)
        assert told.requests <= 8  # those that were under way side by side
        assert "HTTP 401" in said
    told, said = backfill(stack, *JANUARY, expect=4, cities=["Nowhere,XX", "Newark,US"], OPENWEATHER_AT_ONCE="1")
    assert said == "error: Nowhere,XX: HTTP 404: city not found\n"
    assert (told.stored, told.requests) == (len(hours("Newark,US", day("2013-01-01"), day("2013-02-01"))), 6)
    for wrong in (("--from", "2013-02-01", "--to", "2013-01-01"), ("--from", "2099-01-01")):
        assert "no span of time" in stack.script("history_weather.py", *wrong, expect=2, **settings(["A"])).stderr


def test_killed_and_run_again_it_goes_on_where_it_stopped(stack: Stack) -> None:
    words: list[Any] = [
        str(stack.python),
        str(SCRIPTS / "history_weather.py"),
        "--from",
        "2013-01-01",
        "--to",
        "2013-03-01",
    ]
    slow = {**settings(["Newark,US"]), "OPENWEATHER_RATE_LIMIT": "3", "OPENWEATHER_AT_ONCE": "1"}
    first = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **stack.server.environment(stack.database, "analytics", "analytics"),
            "WEATHER_DATA": str(stack.data),
            "OPENWEATHER_BASE_URL": stack.base_url,
            "OPENWEATHER_API_KEY": KEY,
            **slow,
        },
    )
    try:
        progress, until = stack.data / "history.progress", time.monotonic() + 30
        while not (progress.exists() and progress.read_text().startswith("3 of 9")):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "another one" in stack.script("history_weather.py", *words[2:], expect=5, **slow).stderr
    finally:
        first.kill()
        first.wait()
    before = stored(stack)["Newark,US"]
    told, _ = backfill(stack, *words[2:], cities=["Newark,US"])
    wanted = hours("Newark,US", day("2013-01-01"), day("2013-03-01"))
    assert before == wanted[: len(before)]
    assert stored(stack) == {"Newark,US": wanted}
    assert told.stored == len(wanted) - len(before)
    assert told.whole >= 1
