"""`homelab logs`: the selected units, the lines by time, their levels, and the filters."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.commands.logs import LogFilter, file_limits, journal_command, parse_since
from homelab.errors import InputError
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.runtime.journals import Journals, LogLine, parse_line
from homelab.runtime.log_sources import LogSelection, file_sources, select_logs
from tests.scripts import DAG_ID, TASKS

AIRFLOW = [
    "airflow-api-server.service",
    "airflow-dag-processor.service",
    "airflow-scheduler.service",
    "airflow-cleanup.timer",
]
POSTGRES = ["postgresql@16-main.service"]
FETCHES = [f"{DAG_ID}.{TASKS[command]}" for command in ("fetch", "check")]
NOW = datetime(2026, 11, 27, 6, tzinfo=UTC)


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    for name in ("prices", "sales"):
        folder = tmp_path / name
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / "fetch.py").touch()
        (folder / "pipeline.yaml").write_text("commands: {fetch: scripts/fetch.py}\nschedule: '@daily'\n")
    (tmp_path / "own.yaml").write_text("pipelines: {prices: {path: prices}, sales: {path: sales}}")
    return load([bundled_path("inventory.yaml"), tmp_path / "own.yaml"])


DATABASE, ANALYTICS, ORCHESTRATION = "postgres-data", "analytics-platform", "airflow-orchestration"
ALL = ["prices", "sales", "weather"]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            [],
            {
                DATABASE: LogSelection(POSTGRES),
                ANALYTICS: LogSelection(None, ALL),
                ORCHESTRATION: LogSelection(AIRFLOW, dags=[]),
            },
        ),
        (["airflow"], {ORCHESTRATION: LogSelection(AIRFLOW, dags=[])}),
        (["analytics"], {ANALYTICS: LogSelection(None, ALL)}),
        (
            ["postgres", "airflow-scheduler"],
            {DATABASE: LogSelection(POSTGRES), ORCHESTRATION: LogSelection([AIRFLOW[2]])},
        ),
        (["airflow-orchestration"], {ORCHESTRATION: LogSelection(AIRFLOW, dags=[])}),
        (["airflow-orchestration", "airflow-scheduler"], {ORCHESTRATION: LogSelection([AIRFLOW[2]])}),
        (["airflow-orchestration", "cron.service"], {ORCHESTRATION: LogSelection(["cron.service"])}),
        (["analytics-platform"], {ANALYTICS: LogSelection([], ALL)}),  # without units: the whole journal
        (["analytics-platform", "postgres-data"], {ANALYTICS: LogSelection([], ALL), DATABASE: LogSelection(POSTGRES)}),
        (["prices"], {ANALYTICS: LogSelection(None, ["prices"]), ORCHESTRATION: LogSelection(dags=["prices"])}),
        (["weather"], {ANALYTICS: LogSelection(None, ["weather"]), ORCHESTRATION: LogSelection(dags=[DAG_ID])}),
        (["prices.dbt"], {ANALYTICS: LogSelection(None, ["prices"])}),
        (["prices.fetch"], {ORCHESTRATION: LogSelection(dags=["prices.fetch"])}),
        (["ingestion"], {ORCHESTRATION: LogSelection(dags=[*FETCHES, "prices.fetch", "sales.fetch"])}),
        (["airflow-orchestration", "prices"], {ORCHESTRATION: LogSelection(dags=["prices"])}),
    ],
)
def test_containers_restrict_the_place_and_all_others_the_content(
    inventory: Inventory, targets: list[str], expected: dict[str, LogSelection]
) -> None:
    found = {
        name: replace(each, pipelines=sorted(each.pipelines)) for name, each in select_logs(inventory, targets).items()
    }
    assert found == {name: replace(each, pipelines=sorted(each.pipelines)) for name, each in expected.items()}


def test_unit_of_no_service_needs_its_container(inventory: Inventory) -> None:
    with pytest.raises(InputError) as raised:
        select_logs(inventory, ["airflow", "cron"])
    assert raised.value.brief.startswith("Cannot show the logs of cron: it is neither a container")
    assert "airflow, analytics, postgres, prices" in raised.value.details


def test_files_are_read_by_the_users_that_write_them(inventory: Inventory) -> None:
    selected = select_logs(inventory, ["prices"])
    found = [source for name in (ANALYTICS, ORCHESTRATION) for source in file_sources(inventory, selected[name])]
    assert found == [
        {
            "user": "pipeline-prices",
            "folder": "/opt/analytics-platform/pipelines/prices/data/logs",
            "unit": "prices.dbt",
        },
        {"user": "airflow", "folder": "/var/lib/airflow/logs", "dags": ["prices"]},
    ]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (LogFilter(lines=20), "--lines=20 --unit=a.service"),
        (LogFilter(lines=20, follow=True), "--lines=20 --unit=a.service --follow"),
        (LogFilter(lines=20, level="error"), "--since=@1764136800 --unit=a.service"),
        (LogFilter(lines=20, grep=re.compile("x"), follow=True), "--lines=20 --unit=a.service --follow"),
        (LogFilter(lines=None, since=NOW, follow=True), "--since=@1764223200 --unit=a.service --follow --no-tail"),
    ],
)
def test_search_without_a_time_reads_a_day(chosen: LogFilter, expected: str) -> None:
    now = datetime.fromtimestamp(1764223200, UTC)
    if chosen.since:
        chosen = LogFilter(lines=None, since=now, follow=True)
    assert journal_command(["a.service"], ["a.service"], chosen, now).endswith(expected)


@pytest.mark.parametrize(
    ("chosen", "lines", "since", "priority"),
    [
        (LogFilter(), 100, None, 6),
        (LogFilter(level="debug"), 100, None, 7),
        (LogFilter(level="error"), None, NOW.timestamp() - 86400, 6),  # a text may name a worse level
        (LogFilter(lines=None, since=NOW), None, NOW.timestamp(), 6),
    ],
)
def test_files_have_the_limits_of_the_journal(
    chosen: LogFilter, lines: int | None, since: float | None, priority: int
) -> None:
    assert file_limits(chosen, NOW) == {"lines": lines, "since": since, "priority": priority, "follow": False}


def test_unit_of_no_service_has_to_exist() -> None:
    command = journal_command(["cron"], ["a.service"], LogFilter(), NOW)
    assert command.startswith("systemctl cat -- cron >/dev/null && journalctl ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("2 h", NOW - timedelta(hours=2)),
        ("1d", NOW - timedelta(days=1)),
        ("2026-11-27 05:00+00:00", NOW - timedelta(hours=1)),
    ],
)
def test_since_is_a_duration_or_a_time(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--since", "yesterday-ish"], "Cannot read the time yesterday-ish"),
        (["--since", "999999d"], "Cannot read the time 999999d"),
        (["--since", "99999999999d"], "Cannot read the time 99999999999d"),
        (["--since", "9" * 5000 + "s"], "Cannot read the time 999"),
        (["--since", "٣m"], "Cannot read the time ٣m"),
        (["--grep", "("], "Cannot read the pattern ("),
        (["nosuch"], "Cannot show the logs of nosuch"),
    ],
)
def test_bad_input_ends_with_exit_code_2_before_any_connection(words: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["-i", str(bundled_path("inventory.yaml")), "logs", *words])
    assert isinstance(done.exception, InputError)
    assert done.exception.brief.startswith(expected)


def entry(seconds: float, message: object, priority: int = 6, unit: str = "a.service") -> str:
    fields = {"__REALTIME_TIMESTAMP": str(int(seconds * 1e6)), "PRIORITY": str(priority), "MESSAGE": message}
    return json.dumps(fields | {"_SYSTEMD_UNIT": unit})


@pytest.mark.parametrize(
    ("message", "priority", "level", "text"),
    [
        ("started", 6, "info", "started"),
        ("failed", 3, "error", "failed"),
        ("careful", 4, "warning", "careful"),
        ("2026-11-27 06:00:00 UTC [77] ERROR:  relation does not exist", 6, "error", None),
        ("2026-11-27 06:00:00 UTC [77] FATAL:  no pg_hba.conf entry", 6, "error", None),
        ("2026-11-27T06:00:00Z [warning  ] pool is full", 6, "warning", None),
        ("the word error in a sentence is no level", 6, "info", None),
        ([104, 105, 255], 6, "info", "hi\ufffd"),
        (None, 6, "info", ""),
    ],
)
def test_level_is_that_of_the_text_where_journald_knows_none(
    message: object, priority: int, level: str, text: str | None
) -> None:
    line = parse_line("box", entry(1.5, message, priority))
    assert line == LogLine(datetime.fromtimestamp(1.5, UTC), "box", "a", level, line.text if line else "")
    assert line is not None
    assert line.level == level
    assert line.text == (message if text is None else text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-- No entries --",
        "[]",
        '{"MESSAGE": "x"}',
        '{"__REALTIME_TIMESTAMP": "x"}',
        '{"__REALTIME_TIMESTAMP": 1e400}',
        f'{{"__REALTIME_TIMESTAMP": "{"9" * 30}"}}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_no_line(text: str) -> None:
    assert parse_line("box", text) is None


@pytest.mark.parametrize(("zone", "second"), [("America/New_York", -62135596800), ("Asia/Tokyo", 253402300799)])
def test_time_that_is_out_of_range_here_is_no_line(zone: str, second: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert parse_line("box", entry(second, "x", 6)) is None
    finally:
        monkeypatch.undo()
        time.tzset()


def test_unit_of_a_line_is_one_line() -> None:
    line = parse_line("box", json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": "x", "UNIT": "a\nb\tc"}))
    assert line is not None
    assert line.unit == "a b c"


def prints(*lines: str, status: int = 0) -> list[str]:
    return ["sh", "-c", f'printf "%s\\n" "$@"; exit {status}', "sh", *lines]


def test_lines_of_several_containers_are_merged_by_time() -> None:
    commands = [
        ("one", prints(entry(1, "first"), entry(4, "fourth"))),
        ("two", prints(entry(2, "second"), "garbage", status=3)),
        ("two", prints(entry(3, "third"))),
    ]
    statuses: dict[str, int] = {}
    with Journals(commands, statuses) as journals:
        assert [(line.container, line.text) for line in journals] == [
            ("one", "first"),
            ("two", "second"),
            ("two", "third"),
            ("one", "fourth"),
        ]
    assert statuses == {"one": 0, "two": 3}


def test_following_shows_a_line_before_the_programs_end_and_leaves_no_process() -> None:
    command = ["sh", "-c", 'echo "$1"; exec sleep 60', "sh", entry(1, "now")]
    with Journals([("one", command)], {}) as journals:
        assert next(iter(journals)).text == "now"
        (process,) = journals._processes
    assert process.returncode is not None


def test_filters_apply_to_each_line() -> None:
    lines = [LogLine(NOW, "box", "a", level, level) for level in ("error", "warning", "info", "debug")]
    assert [line.text for line in lines if LogFilter(level="warning").accepts(line)] == ["error", "warning"]
    assert [line.text for line in lines if LogFilter(grep=re.compile("^.n")).accepts(line)] == ["info"]
