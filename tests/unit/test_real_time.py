"""The stream and the station: keys in the inventory, OpenWeather's limits, units, environments, health, alerts."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homelab.commands.export_kubernetes import export_kubernetes
from homelab.commands.pipeline_copy import copy_pipeline
from homelab.commands.pipeline_list import pipelines
from homelab.commands.query import query
from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory.weather_section import stream_error
from homelab.model import Inventory
from homelab.pipelines.stream import UNIT, stream_problems, stream_units
from homelab.runtime.log_sources import select_logs, units_of
from homelab.services.alert_rules import alerts
from homelab.services.late_limits import late_limits
from homelab.services.station import Station
from homelab.steps import File, SystemdUnit
from tests.scripts import IN_CONTAINER
from tests.support import make_session
from tests.unit.test_broker import INGESTION
from tests.unit.test_ingestion_service import files, inventory, steps

from loader import RunSummary  # isort: skip
from stream_weather import StreamState  # isort: skip

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def streaming(folder: Path, keys: str = "schedule: stream", containers: str = "") -> Inventory:
    """Return the shipped inventory with these keys of the weather."""
    return inventory(folder, f"containers: {{{containers}}}\npipelines: {{weather: {{{keys}}}}}")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("schedule: streams", r"weather\.schedule: must be @hourly"),
        ("schedule: stream, every: 5s", r"weather\.every: must be"),
        ("schedule: stream, expected_every: 11m", r"weather\.expected_every: must be one of|must be 10m"),
        ("schedule: stream, every: 31m", r"weather\.every: must be at most `expected_every`, 30m"),
        ("schedule: on_data, every: 16m, expected_every: 15m", r"every: must be at most `expected_every`, 15m"),
        ("every: 60s", r"weather\.every: is for `schedule: stream` and `schedule: on_data`"),
        ("expected_every: 10m", r"weather\.expected_every: is for"),
        ("schedule: stream, build_rows: 2", r"weather\.build_rows: is for `schedule: on_data`"),
        ("build_every: 5m", r"weather\.build_every: is for `schedule: on_data`"),
        ("schedule: stream, every: 10s, rate_limit: 10", "3 cities every 10s are 18 requests a minute"),
        ("schedule: on_data, every: 7s", "weather.every: must be"),
    ],
)
def test_inventory_errors(tmp_path: Path, keys: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        streaming(tmp_path, keys)


@pytest.mark.parametrize(
    ("cities", "every", "rate_limit", "error"),
    [
        (3, 60, 60, ""),
        (22, 60, 60, ""),
        (1, 10, 60, ""),
        (1, 10, 5, "1 city every 10s are 6 requests a minute, and `rate_limit` allows 5: write `every: 12s` or longer"),
        (
            23,
            60,
            60,
            "23 cities every 60s are 23 x 44,640 = 1,026,720 requests in 31 days, and OpenWeather's free plan has "
            "1,000,000: write `every: 62s` or longer, or set `rate_limit` to that of your plan",
        ),
        (61, 60, 60, "61 cities every 60s are 61 requests a minute, and `rate_limit` allows 60: write `every: 61s`"),
        (600, 60, 600, ""),
        (601, 60, 600, "601 cities every 60s are 601 requests a minute, and `rate_limit` allows 600"),
        (5000, 60, 60, "5000 cities every 60s are 5,000 requests a minute, and `rate_limit` allows 60: remove cities"),
        (5000, 10, 0, ""),
    ],
)
def test_stream_stays_within_the_limits_of_openweather(cities: int, every: int, rate_limit: int, error: str) -> None:
    found = stream_error(cities, every, rate_limit)
    assert found.startswith(error)
    assert bool(found) == bool(error)


def test_airflow_needs_assets_for_builds_after_new_rows(tmp_path: Path) -> None:
    old = "airflow-orchestration: {services: {airflow: {version: '2.11'}}}"
    with pytest.raises(InputError, match=r'weather\.schedule: needs `version: "3\.3"` of `airflow`, as 2\.11'):
        streaming(tmp_path, "schedule: on_data", old)
    assert streaming(tmp_path, "schedule: stream", old).weather
    with pytest.raises(InputError, match=r"weather\.schedule: needs the service `airflow`"):
        streaming(tmp_path, "schedule: on_data", "airflow-orchestration: null")


@pytest.mark.parametrize(
    ("keys", "airflow", "ingestion", "analytics"),
    [
        ("schedule: '@daily'", ["WEATHER_SCHEDULE=@daily"], ["WEATHER_SCHEDULE=@daily"], ["WEATHER_SCHEDULE=@daily"]),
        (
            "schedule: stream, every: 90s, expected_every: 10m",
            ["WEATHER_SCHEDULE=@hourly", "WEATHER_STREAM=yes"],
            ["WEATHER_SCHEDULE='*/10 * * * *'", "WEATHER_EVERY=90"],
            ["WEATHER_SCHEDULE='*/10 * * * *'"],
        ),
        (
            "schedule: on_data, build_rows: 5",
            ["WEATHER_SCHEDULE=@hourly", "WEATHER_STREAM=yes", "WEATHER_BUILD_EVERY=600"],
            ["WEATHER_SCHEDULE='*/30 * * * *'", "WEATHER_EVERY=60"],
            ["WEATHER_SCHEDULE='*/30 * * * *'", "WEATHER_BUILD_ROWS=5"],
        ),
    ],
)
def test_containers_get_their_part_of_the_settings(
    tmp_path: Path, keys: str, airflow: list[str], ingestion: list[str], analytics: list[str]
) -> None:
    wanted = streaming(tmp_path, keys, INGESTION)
    names = ("WEATHER_SCHEDULE", "WEATHER_STREAM", "WEATHER_EVERY", "WEATHER_BUILD")

    def variables(container: str, path: str) -> list[str]:
        return [line for line in files(steps(wanted, container))[path].splitlines() if line.startswith(names)]

    assert variables("airflow-orchestration", "/etc/homelab/airflow.env") == airflow
    assert variables("ingest", f"{IN_CONTAINER}/pipeline.env") == ingestion
    assert variables("analytics-platform", f"{IN_CONTAINER}/pipeline.env") == analytics


@pytest.mark.parametrize("own_container", [False, True])
def test_unit_runs_where_the_ingestion_runs(tmp_path: Path, own_container: bool) -> None:
    wanted = streaming(tmp_path, containers=INGESTION if own_container else "")
    place = "ingest" if own_container else "analytics-platform"
    for container in wanted.containers:
        found = [each for each in steps(wanted, container.name) if isinstance(each, SystemdUnit) and each.unit == UNIT]
        assert len(found) == (container.name == place)
        assert stream_units(wanted, container) == ([UNIT] if container.name == place else [])
        assert (UNIT in units_of(wanted, container)) == (container.name == place)
    text = files(steps(wanted, place))
    unit = text[f"/etc/systemd/system/{UNIT}"]
    assert "User=pipeline-weather\n" in unit
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="} <= set(unit.splitlines())
    assert "scripts/stream_weather.py" in text[f"{IN_CONTAINER}/bin/stream"]
    assert list(select_logs(wanted, [UNIT.removesuffix(".service")])) == [place]


def test_stream_restarts_after_a_change_of_its_files(tmp_path: Path) -> None:
    found = steps(streaming(tmp_path), "analytics-platform")
    (unit,) = [each for each in found if isinstance(each, SystemdUnit) and each.unit == UNIT]
    titles = {str(each) for each in unit.triggered_by}
    assert {f"file {IN_CONTAINER}/pipeline.env", f"file {IN_CONTAINER}/secrets.env"} <= titles
    assert any(title.endswith(f"{IN_CONTAINER}/scripts") for title in titles)
    assert titles <= {str(each) for each in found}


def test_airflow_does_not_fetch(tmp_path: Path) -> None:
    hourly, stream, on_data = (
        inventory(tmp_path, f"pipelines: {{weather: {{schedule: '{schedule}'}}}}")
        for schedule in ("@hourly", "stream", "on_data")
    )
    commands = [each.pipeline("weather").commands for each in (hourly, stream, on_data)]
    assert commands == [("fetch", "build", "check"), ("build", "check"), ("build", "check", "build_due")]
    gates = [files(steps(each, "analytics-platform"))["/opt/analytics-platform/bin/gate"] for each in (hourly, stream)]
    assert ["weather.fetch" in gate for gate in gates] == [True, False]
    assert [pipelines(each)[0].schedule for each in (hourly, stream, on_data)] == ["@hourly", "stream", "on_data"]


def test_build_is_due_where_the_builds_are(tmp_path: Path) -> None:
    wanted = streaming(tmp_path, "schedule: on_data", INGESTION)
    gate = "/opt/analytics-platform/bin/gate"
    assert "weather.build_due" in files(steps(wanted, "analytics-platform"))[gate]
    assert "weather.build_due" not in files(steps(wanted, "ingest"))[gate]


@pytest.mark.parametrize(
    ("schedule", "script", "error"),
    [
        ("stream", "stream_weather.py", "the copy of the weather has no script for it"),
        ("on_data", "build_due.py", r"`on_data` needs scripts/build_due\.py"),
    ],
)
def test_copy_without_the_scripts_is_refused(tmp_path: Path, schedule: str, script: str, error: str) -> None:
    copy_pipeline(tmp_path, "weather")
    (tmp_path / "pipelines" / "weather" / "scripts" / script).unlink()
    with pytest.raises(InputError, match=error):
        steps(streaming(tmp_path, f"schedule: {schedule}, path: pipelines/weather"), "analytics-platform")


def test_export_has_no_stream(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot export the pipeline weather: a service fetches its rows continuously"):
        export_kubernetes(make_session(streaming(tmp_path)), tmp_path / "out")


def state(**changes: object) -> Result:
    """Return the state of a stream that works."""
    facts = {"round": NOW.timestamp() - 20, "newest_row": NOW.timestamp() - 300, "asked": 3, "failed": 0, "spooled": 0}
    return Result("", 0, json.dumps({**facts, "waiting": 0, "problem": None, **changes}).encode())


@pytest.mark.parametrize(
    ("answer", "problems"),
    [
        (state(), []),
        (Result("", 1, b""), ["the stream has not reported yet"]),
        (state(round=NOW.timestamp() - 700), ["the stream has not reported since 2026-11-27 11:48:20 UTC"]),
        (state(newest_row=NOW.timestamp() - 1801), ["late: newest row 2026-11-27 11:29:59 UTC, expected every 30m"]),
        (state(failed=2), ["2 of 3 cities failed in the last round of the stream"]),
        (state(problem="PostgreSQL: away", spooled=3), ["the stream cannot store its rows: PostgreSQL: away; 3 rows"]),
    ],
)
def test_status_names_the_problems_of_the_stream(tmp_path: Path, answer: Result, problems: list[str]) -> None:
    weather = streaming(tmp_path).weather
    assert weather
    assert weather.stream
    found = list(stream_problems(weather.stream, answer, NOW))
    assert [text[: len(start)] for text, start in zip(found, problems, strict=True)] == problems


def test_alerts_use_the_time_of_the_newest_row_of_the_stream(tmp_path: Path) -> None:
    wanted = streaming(tmp_path, "schedule: on_data, expected_every: 10m, build_every: 30m")
    expressions = {each.name: each.expression for each in alerts(wanted)}
    stream = 'time() - homelab_pipeline_stream_newest_row_timestamp_seconds{pipeline="weather"} > '
    assert expressions["DataStale"].startswith(stream)
    assert timedelta(seconds=float(expressions["DataStale"].removeprefix(stream))) < timedelta(minutes=15)
    assert UNIT in expressions["UnitFailed"]
    assert late_limits(wanted) == {"weather": 6000}
    assert late_limits(streaming(tmp_path)) == {"weather": 10800}


@pytest.mark.parametrize(("pipeline", "option"), [("weather", "--pipeline"), (None, "--at")])
def test_query_of_now_takes_no_other_source(tmp_path: Path, pipeline: str | None, option: str) -> None:
    at = None if pipeline else NOW
    with pytest.raises(InputError, match=f"--now and {option} cannot be combined"):
        query(make_session(streaming(tmp_path)), "select 1", pipeline, at, now=True)


STATION = "station: {city: Garden, latitude: 48.1, longitude: 11.5, passkey: {secret: station}}"
PLACE = f"station: {{vmid: 176, ip: .76, cores: 1, memory: 256, services: {{{STATION}}}}}"


def test_passkey_is_in_a_file_of_root_only(tmp_path: Path) -> None:
    found = steps(streaming(tmp_path, "schedule: '@hourly'", PLACE), "station")
    (file,) = [each for each in found if isinstance(each, File) and b"STATION_PASSKEY=" in each.content]
    assert (file.secret, file.mode, file.owner) == (True, 0o600, "root")
    others = [each for each in found if isinstance(each, File) and each is not file]
    assert [each.path for each in others if b"PASSKEY" in each.content] == []
    assert "STATION_CITY=Garden\nSTATION_LATITUDE=48.1\nSTATION_LONGITUDE=11.5\n" in file.content.decode()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("timezone: Europe/Berlim", r"station\.timezone: unknown time zone 'Europe/Berlim'"),
        ("timezone: Foo/Bar", r"station\.timezone: must be a time zone such as Europe/Berlin"),
        ("city: ' '", r"station\.city: must be a city's name of at most 200 characters"),
    ],
)
def test_errors_of_the_station(tmp_path: Path, options: str, error: str) -> None:
    option = "city: Garden" if options.startswith("city") else "passkey: {secret: station}"
    place = PLACE.replace(option, options if options.startswith("city") else f"{option}, {options}")
    with pytest.raises(InputError, match=error):
        streaming(tmp_path, "schedule: '@hourly'", place)


@pytest.mark.parametrize(
    ("name", "text", "is_taken"),
    [
        ("cities.csv", '\ufeffid, name\n1, "Garden"\n', True),
        ("cities.csv", 'name,id\n"Gar\nden",1\nYard,2\n', False),
        ("cities.json", '["Yard", "Garden"]', True),
        ("cities.json", '[{"name": "Garden", "id": 1}]', True),
        ("cities.json", '["Yard", 7, {"id": 1}]', False),
        ("cities.json", '{"name": "Garden"}', False),  # the ingestion script names the errors of a file
        ("cities.json", "[", False),
        ("cities.csv", "town\nGarden\n", False),
        ("cities.csv", "", False),
    ],
)
def test_city_of_the_station_is_not_in_the_file_of_cities(tmp_path: Path, name: str, text: str, is_taken: bool) -> None:
    (tmp_path / name).write_text(text)
    wanted = streaming(tmp_path, f"schedule: '@hourly', cities: {{file: {name}}}", PLACE)
    taken = pytest.raises(InputError, match="Cannot deploy station: Garden is a city of the weather already")
    with taken if is_taken else nullcontext():
        steps(wanted, "station")


def test_station_has_a_city_of_its_own(tmp_path: Path) -> None:
    wanted = streaming(tmp_path, "schedule: '@hourly'", PLACE.replace("Garden", '"Newark,US"'))
    with pytest.raises(InputError, match="Cannot deploy station: Newark,US is a city of the weather already"):
        steps(wanted, "station")


@pytest.mark.parametrize(
    ("active", "reported", "healthy", "summary"),
    [
        (True, {}, True, "7 readings stored, 1 refused, the last one at 11:59 UTC"),
        (True, {"problem": "away"}, False, "readings wait for PostgreSQL: away; 7 readings stored"),
        (True, {"last_reading": None}, False, "no reading since its start: enter port 8090 and the path /data/report/"),
        (True, {"last_reading": NOW.timestamp() - 3601}, False, "no reading since 2026-11-27 10:59 UTC"),
        (False, {}, False, "does not run"),
        (True, None, False, "has not reported yet"),
        (True, [], False, "its report has an unexpected format"),
    ],
)
def test_health_of_the_station(tmp_path: Path, active: bool, reported: object, healthy: bool, summary: str) -> None:
    facts = {"stored": 7, "unchanged": 0, "quarantined": 1, "problem": "", "last_reading": NOW.timestamp() - 60}
    found = {**facts, **reported} if isinstance(reported, dict) else reported
    text = b"" if reported is None else json.dumps(found).encode()
    answers = [Result("", 0 if active else 3), Result("", 0, text), Result("", 0, f"{NOW.timestamp():.0f}".encode())]
    wanted = streaming(tmp_path, "schedule: '@hourly'", PLACE).container_with("station").services["station"]
    assert isinstance(wanted, Station)
    health = wanted.assess(answers)
    assert (health.healthy, health.summary[: len(summary)]) == (healthy, summary)


def test_stream_without_a_row_is_late_from_its_first_start(tmp_path: Path) -> None:
    def newest_after_a_round(*, stored: int = 0) -> float:
        state = StreamState(tmp_path)
        state.save(RunSummary(3, stored=stored))
        newest: float = json.loads((tmp_path / "stream.json").read_text())["newest_row"]
        return newest

    first = newest_after_a_round()
    assert newest_after_a_round() == first, "also after a restart"
    assert newest_after_a_round(stored=1) > first
