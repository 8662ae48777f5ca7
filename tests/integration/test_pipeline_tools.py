"""The pipeline's tools: backfill from files, status, query shell and documentation."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_status import PipelineStatus
from homelab.commands.pull import Format, pull
from homelab.host import Result
from homelab.inventory import load as load_inventory
from homelab.lab.observations import PLACES, answer, load
from homelab.paths import bundled_path
from homelab.runtime.backfills import Backfilled
from homelab.runtime.deployed_pipelines import deployed_pipeline
from homelab.runtime.marts import Rows
from homelab.runtime.sql_shell import SqlShell
from tests.integration import pg
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import IN_CONTAINER, PROJECT, SCRIPTS, script
from tests.support import NoHost, make_session

from contract import EXIT  # isort: skip

pytestmark = pytest.mark.timeout(300)


def history(hours: int, units: str = "imperial") -> list[dict[str, Any]]:
    """Return OpenWeather's responses for the first hours of Newark."""
    return [answer(PLACES[0], seen, units) for seen in load()["EWR"][:hours]]


def backfill(stack: Stack, text: str, *options: str, expect: int = 0) -> Backfilled:
    """Backfill from standard input, as `homelab pipeline backfill` does."""
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_file.py"), *options],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            **os.environ,
            "WEATHER_CITIES": '[{"name": "Home", "id": 5101798}]',
            **stack.server.environment(stack.database, "analytics", "analytics"),
        },
    )
    assert done.returncode == expect, done.stderr
    return Backfilled(**json.loads(done.stdout.splitlines()[-1]))


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def refused(stack: Stack, text: str | bytes, *options: str) -> str:
    """Backfill a text of which nothing may be stored; return the error."""
    before = len(stack.raw())
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_file.py"), *options],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **stack.server.environment(stack.database, "analytics", "analytics")},
    )
    errors = done.stderr.decode()
    assert done.returncode == EXIT.bad_input, errors
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert len(stack.raw()) == before
    return errors


def test_files_of_every_supported_form_are_stored(stack: Stack) -> None:
    samples = history(30)
    assumed = {"assumed_units": "imperial"}
    first = backfill(stack, lines(samples[:10]))
    assert first == Backfilled(10, 0, 0, {}, units={"imperial": 10}, **assumed)  # type: ignore[arg-type]
    repeated = backfill(stack, lines(samples[:12]))
    assert repeated == Backfilled(2, 10, 0, {}, units={"imperial": 12}, **assumed)  # type: ignore[arg-type]
    assert backfill(stack, json.dumps(samples[12:15], indent=1)).stored == 3, "one document over many lines"
    exported = [{"city": "Elsewhere", "units": "metric", "data": one} for one in history(5, "metric")]
    assert backfill(stack, lines(exported)).stored == 5
    hours = [{key: one[key] for key in ("dt", "main", "wind")} for one in samples[:2]]
    history_response = {"cnt": 2, "city_id": 1, "list": hours}
    assert backfill(stack, json.dumps(history_response), "--city", "Named", "--new-city").stored == 2
    unknown_id = {**samples[0], "id": 7}
    assert backfill(stack, lines([unknown_id])).stored == 1

    invalid = [{"dt": 5}, {**samples[22], "main": {"temp": "hot"}}]
    outcome = backfill(stack, lines([samples[20], invalid[0], samples[21], invalid[1]]), expect=EXIT.partial)
    assert (outcome.stored, outcome.quarantined) == (2, 2)
    assert outcome.reasons == {"the observation has no city": 1, "the response's main.temp is not a number": 1}
    assert "1 times: the response's main.temp is not a number" in str(outcome)
    with stack.server.connect(stack.database) as connection:
        rows = dict(connection.execute("select city, count(*) from raw.weather_observations group by city").fetchall())  # type: ignore[arg-type]
        assert rows == {"Home": 17, "Elsewhere": 5, "Named": 2, "Newark,US": 1}
        assert connection.execute("select count(*) from raw.quarantine").fetchone() == (2,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "no json",
        '{"dt": 1}\nno json\n',
        "[1, 2",
        "[" * 100_000,
        "[]",
        "null",
        '"a"',
        "5\n6\n",
        b"\xff\xfe{\0",
    ],
)
def test_file_without_an_observation_is_refused(stack: Stack, text: str | bytes) -> None:
    refused(stack, text)


def test_bad_line_does_not_stop_the_others(stack: Stack) -> None:
    samples = history(20)
    bad: list[str | dict[str, Any]] = [
        {**samples[4], "name": "\ud800", "id": 1},
        {**samples[5], "id": [1]},  # valid: the name decides
        {**samples[6], "id": {}, "name": ["x"]},
        {**samples[7], "name": "a\0b", "id": 1},
        {**samples[8], "name": "x" * 3000, "id": 1},
        {**samples[9], "dt": 0},
        {**samples[10], "dt": int(time.time()) + 3600},
        {"city": "A", "units": ["metric"], "data": samples[11]},
        {"city": "A", "units": "a\tb\n", "data": samples[11]},
        {"city": "A\tb", "data": [samples[11]]},
        {**samples[12], "extra": "\0"},
        "no json",
        "{",
        "[" * 100_000,
        '{"dt": 1600000000, "main": {"temp": 1' + "0" * 400 + '}, "id": 5101798}',
        '{"dt": 1600000000, "main": {"temp": NaN}, "id": 5101798}',
        '{"dt": 1600000000, "main": {"a\\u0000b": "x"}, "id": 5101798}',
    ]
    text = lines(samples[:2]) + "".join(each + "\n" if isinstance(each, str) else lines([each]) for each in bad)
    outcome = backfill(stack, text + lines(samples[2:4]), expect=EXIT.partial)
    assert (outcome.stored, outcome.quarantined) == (5, len(bad) - 1)
    assert sum(outcome.reasons.values()) >= 10
    with stack.server.connect(stack.database) as connection:
        assert connection.execute("select count(*) from raw.quarantine").fetchone() == (len(bad) - 1,)
    again = backfill(stack, text, expect=EXIT.partial)
    assert (again.stored, again.unchanged) == (0, 3), "everything is stored, but a part of the file is invalid"


@pytest.mark.parametrize("units", ["imperial", "metric"])
def test_file_in_other_units_is_refused(stack: Stack, units: str) -> None:
    kelvin = lines(history(24, "standard"))
    errors = refused(stack, kelvin, "--units", units)
    assert "24 of 24 temperatures are impossible in the given units" in errors
    assert "K. Name the units of the file: --units standard" in errors
    stored = backfill(stack, kelvin, "--units", "standard")
    assert (stored.stored, stored.units, stored.assumed_units) == (24, {"standard": 24}, None)


def test_absurd_temperature_is_stored_for_the_models_to_judge(stack: Stack) -> None:
    samples = history(24)
    samples[5]["main"]["temp"] = -459.67
    samples[6]["rain"] = {"1h": -0.1}
    assert backfill(stack, lines(samples)).stored == 24
    sentinel = [{**samples[0], "dt": 1_600_000_000 + hour} for hour in range(30)]
    sentinel[3] = {**sentinel[3], "main": {"temp": 200}}
    outcome = backfill(stack, lines(sentinel), expect=EXIT.partial)
    assert (outcome.stored, outcome.reasons) == (29, {"a temperature of 200 cannot be °F, but K": 1})


def test_replacement_corrects_observations_in_wrong_units(stack: Stack) -> None:
    metric = lines(history(24, "metric"))
    assert backfill(stack, metric).units == {"imperial": 24}  # possible, and wrong
    assert backfill(stack, metric, "--units", "metric").unchanged == 24
    corrected = backfill(stack, metric, "--units", "metric", "--replace")
    assert (corrected.stored, corrected.replaced, corrected.unchanged) == (0, 24, 0)
    assert "24 replaced" in str(corrected)
    assert backfill(stack, metric, "--units", "metric", "--replace").unchanged == 24
    with stack.server.connect(stack.database) as connection:
        rows = connection.execute(
            "select revision, units, count(*) from raw.weather_observations group by 1, 2 order by 1"
        ).fetchall()
    assert rows == [(0, "imperial", 24), (1, "metric", 24)]


def test_look_alikes_are_refused(stack: Stack) -> None:
    entry = {key: history(1)[0][key] for key in ("dt", "main", "wind", "weather")}
    marks: list[dict[str, Any]] = [{"dt_txt": "2013-01-01 06:00:00"}, {"pop": 0.4}, {"sys": {"pod": "d"}}]
    for extra in marks:
        document = {"cod": "200", "list": [{**entry, **extra}] * 5, "city": {"name": "Some", "country": "XX"}}
        assert "a forecast, not an observation" in refused(stack, json.dumps(document))
    pollution = {"list": [{"dt": entry["dt"], "main": {"aqi": 2}, "components": {"co": 1}}]}
    assert "air pollution" in refused(stack, json.dumps(pollution), "--city", "Some", "--new-city")
    mixed = lines([history(2)[1], {**history(1)[0], "pop": 0}])
    assert backfill(stack, mixed, expect=EXIT.partial).stored == 1


def test_bulk_history_names_its_city_in_several_forms(stack: Stack) -> None:
    entries = [{key: one[key] for key in ("dt", "main", "wind", "weather")} for one in history(6)]
    records = [
        {**entries[0], "city_name": "Turin", "lat": 45.1, "lon": 7.7, "dt_iso": "2013-01-01 00:00:00 +0000 UTC"},
        {**entries[1], "city_name": "Turin", "city_id": 5101798},
        {**entries[2], "city": {"id": 1, "name": "Turin", "country": "IT"}},
        {**entries[3], "city": {"id": 5101798, "name": "Elsewhere"}},
        {"city": {"name": "Listed"}, "units": "metric", "list": [entries[4]]},
        {**entries[5], "city": {}},
    ]
    outcome = backfill(stack, json.dumps(records), expect=EXIT.partial)
    assert (outcome.stored, outcome.reasons) == (5, {"the observation has no city": 1})
    assert sorted(city for city, _ in stack.raw()) == ["Home", "Home", "Listed", "Turin", "Turin,IT"]
    with stack.server.connect(stack.database) as connection:
        listed = connection.execute("select units from raw.weather_observations where city = 'Listed'").fetchall()
    assert listed == [("metric",)]


def test_unknown_city_needs_the_option_for_new_ones(stack: Stack) -> None:
    text = lines(history(2))
    assert "unknown city 'Hoome'" in refused(stack, text, "--city", "Hoome")
    assert backfill(stack, text, "--city", "Home").stored == 2  # configured
    assert backfill(stack, text, "--city", "Hoome", "--new-city").stored == 2
    assert backfill(stack, text, "--city", "Hoome").unchanged == 2  # stored


def exclusions(stack: Stack, *options: str, expect: int = 0) -> Any:
    done = stack.script("exclusions.py", *options, expect=expect)
    return json.loads(done.stdout) if expect == 0 else done.stderr


def test_observations_are_excluded_and_included_again(stack: Stack) -> None:
    samples = history(10)
    backfill(stack, lines(samples))
    start = datetime.fromtimestamp(samples[2]["dt"], UTC)
    period = ("--from", f"{start:%Y-%m-%dT%H:%M}", "--to", (start + timedelta(hours=2)).isoformat())
    by = ("--reason", "a sensor\x1b[2J", "--by", "me@here")
    found = exclusions(stack, "count", "--city", "Home", *period)
    assert (found["observations"], found["cities"], found["first"]) == (2, 1, start.isoformat())
    assert exclusions(stack, "add", "--city", "Home", *period, *by)["id"] == 1
    assert exclusions(stack, "add", *period, *by)["observations"] == 2
    revoked = exclusions(stack, "revoke", "--id", "1", "--reason", "repaired", "--by", "you@here")
    assert (revoked["revoked_by"], revoked["reason"]) == ("you@here", r"a sensor\u001b[2J")
    assert [each["revoked_at"] is None for each in exclusions(stack, "list")] == [False, True]
    failures: list[tuple[tuple[str, ...], str]] = [
        (("add", "--city", "Hoome", *period, *by), "there is no observation of Hoome in this period"),
        (("count", "--from", "2013-01-02", "--to", "2013-01-01"), "--from must be before --to"),
        (("revoke", "--id", "1", *by), "there is no exclusion 1 that is in force"),
        (("revoke", "--id", "99", *by), "there is no exclusion 99 that is in force"),
        (("add", *period, "--reason", " ", "--by", "me"), "invalid _text value"),
        (("count", "--from", "soon", "--to", "2013-01-01"), "invalid _time value"),
    ]
    for options, error in failures:
        assert error in exclusions(stack, *options, expect=EXIT.bad_input)


MARTS = ("cities", "city_history", "pipeline_runs", "observation_issues")


def test_status_the_shell_and_the_documentation(stack: Stack, tmp_path: Path) -> None:
    def status() -> PipelineStatus:
        done = stack.script("pipeline_status.py", "--database", str(stack.published))
        return PipelineStatus(**json.loads(done.stdout))

    assert list(status().lines()) == ["build      none yet"]
    samples = history(30)
    backfill(stack, lines(samples[:10] + samples[13:]))
    stack.ingest(["Newark,US", "Nowhere,XX"], expect=EXIT.partial)
    stack.build()
    report = status()
    text = "\n".join(report.lines())
    assert "build      success" in text
    assert "1 stored, 0 unchanged, 1 failed of 2" in text
    assert "published  2 cities, newest day 2013-01-0" in text
    assert [(run["outcome"], run["observations_stored"]) for run in report.runs] == [("partial", 1), ("success", 27)]
    missing = stack.query("select sum(times_missing)::int as n from weather_completeness where city = 'Home'")
    # Until the city is inactive; the station itself missed an hour.
    assert missing == [{"n": (samples[29]["dt"] - samples[0]["dt"]) // 3600 + 1 - 27 + 7 * 24}]

    shown: list[Rows] = []
    SqlShell(stack.query, shown.append, print).run_all(
        [".tables", "select count(*) as n", "from weather_hourly where city = 'Home';", "select 'a;\nb' as c; select 2"]
    )
    tables = [row["table_name"] for row in shown[0]]
    assert "weather_month_to_date" in tables
    assert not [name for name in tables if not name.startswith("weather_") and name not in MARTS]
    assert shown[1:] == [[{"n": 27}], [{"c": "a;\nb"}], [{"2": 2}]]

    options = ("--data", str(stack.data), "--profiles", str(stack.data), "--project", str(PROJECT))
    with (stack.data / "build.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a running build, and PostgreSQL is away
        page = Path(stack.script("dbt_docs.py", *options, PGPORT=str(pg.free_port())).stdout.strip())
    html = page.read_text()
    assert "# The weather warehouse" in html, "the project's own overview"
    assert '"name": "observation_hour", "type": "TIMESTAMP WITH TIME ZONE"' in html
    assert "One row per city and hour (UTC) with an observation" in html
    assert html.lstrip().startswith("<!doctype html>")
    written = page.stat().st_mtime_ns
    stack.script("dbt_docs.py", *options)
    assert page.stat().st_mtime_ns == written, "an unchanged project is not documented again"


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_pulled_marts_equal_the_published_ones(stack: Stack, tmp_path: Path, kind: Format) -> None:
    stack.ingest(["newark"] * 30)
    stack.build()
    words = [str(stack.python), script("export.py"), "--database", str(stack.published), "--format", kind]

    class Local(NoHost):
        """A connection that runs the script on this machine."""

        def download(self, command: str, write: Callable[[bytes], object], *, timeout: float) -> Result:
            """See Connection.download."""
            assert f"export.py --database {IN_CONTAINER}/data/published.duckdb --format {kind}" in command
            done = subprocess.run(words, capture_output=True, check=False)
            write(done.stdout)
            return Result(command, done.returncode, b"", done.stderr)

    inventory = load_inventory([bundled_path("inventory.yaml")])
    session = make_session(inventory, connector=lambda *_: Local())
    pull(session, deployed_pipeline(inventory), tmp_path / "marts", kind)
    rows = "select observation_hour::varchar, temperature_mean_f from {} order by all"
    tables = {
        "duckdb": f"attach '{tmp_path}/marts' as pulled (read_only); {rows.format('pulled.weather_hourly')}",
        "parquet": rows.format(f"'{tmp_path}/marts/weather_hourly.parquet'"),
    }
    code = f"import duckdb, json; print(json.dumps(duckdb.execute({tables[kind]!r}).fetchall()))"
    found = subprocess.run([str(stack.python), "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == [[*row.values()] for row in stack.query(rows.format("weather_hourly"))] != []
