"""Text from containers on the operator's terminal: escaped in every output for people, exact in JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import homelab.cli
from homelab.cli import output, plan_output, report_output, results
from homelab.cli.results import print_json, print_json_line
from homelab.commands.plan import Preview
from homelab.errors import HomelabError
from homelab.host import Result, expected_format
from homelab.progress import TerminalProgress
from homelab.runtime.convergence import HostReport
from homelab.runtime.plan_lines import PlanLine
from homelab.services.airflow import Airflow
from homelab.services.postgres import Postgres
from homelab.terminal import printable
from tests.unit.test_plan import all_observed as all_observed

PRINTERS = {"typer.echo", "typer.secho", "print", "Console"}
REPORTS = ["", "no JSON", "[]", "null", "7", '{"sizes": 3}', "[" * 100_000, '["x"]']
CLEAR = "a\x1b[2Jb"  # clears the screen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("Zürich 東京 ✓ 😀", "Zürich 東京 ✓ 😀"),
        ("two\n\tlines\r\n", "two\n\tlines\n"),
        (CLEAR, "a\\x1b[2Jb"),
        ("\x9b2J\x07\x08\x7f\x00", "\\x9b2J\\x07\\x08\\x7f\\x00"),
        ("100 %\rOK", "100 %\\rOK"),
        ("\u202etxt.exe\u2066", "\\u202etxt.exe\\u2066"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_unsafe_characters_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def print_error() -> None:
    results.print_error(HomelabError(CLEAR, CLEAR, CLEAR))


def print_rows() -> None:
    output.show_rows([{CLEAR: CLEAR}])


def print_records() -> None:
    output.show_rows([{CLEAR: CLEAR * 200}])


def print_deploy() -> None:
    report_output.show_deploy([HostReport(CLEAR, [], 0.1, HomelabError(CLEAR))], dry_run=True)


def print_preview() -> None:
    plan_output.show_preview(Preview(up=[PlanLine(CLEAR, CLEAR, "live", CLEAR)], not_inspected={CLEAR: CLEAR}))


def print_table() -> None:
    from rich.table import Table

    table = Table(CLEAR, title=CLEAR)
    table.add_row(CLEAR)
    output.console().print(table)


def print_progress() -> None:
    progress = TerminalProgress()
    with progress.step(CLEAR, CLEAR) as update:
        update(CLEAR)
        progress.note(CLEAR, CLEAR)
    progress.close()


@pytest.mark.parametrize(
    "show",
    [
        print_error,
        print_rows,
        print_records,
        print_deploy,
        print_preview,
        print_table,
        print_progress,
        lambda: results.echo(CLEAR),
    ],
)
def test_no_output_for_people_has_an_unsafe_character(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    shown = "".join(capsys.readouterr())
    assert "\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_styles_are_kept_and_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    shown = output.safe(Text.assemble(("red \x1b", "red"), "plain"))
    assert shown.plain == "red \\x1bplain"
    assert shown.get_style_at_offset(console, 7).color is not None
    assert shown.get_style_at_offset(console, 8).color is None
    results.print_json([{"text": CLEAR}])
    assert json.loads(capsys.readouterr().out) == [{"text": CLEAR}]


def test_only_the_safe_printers_write_to_the_terminal() -> None:
    allowed = {"results.py", "schema.py", "secret.py", "ca.py"}  # the printers themselves; output for programs
    writers = set()
    for path in Path(homelab.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "typer.echo",
                "print",
                "typer.secho",
                "Console",
            ):
                writers.add(path.name)
    assert writers - allowed == {"output.py"}


@pytest.mark.parametrize("service", [Postgres(), Airflow()])
@pytest.mark.parametrize(
    "answer", ["", "no JSON", "[]", "null", "7", '{"sizes": 3}', "[" * 100_000, '{"a": {}}', '["x"]']
)
def test_report_of_an_unexpected_format_is_a_line_of_its_service(service: Postgres, answer: str) -> None:
    answers = [Result("probe", 0, answer.encode()) for _ in service.health_probes()]
    assert not service.assess(answers).healthy


def test_answer_of_an_unexpected_format_is_an_error_of_its_container() -> None:
    with pytest.raises(HomelabError, match="unexpected format") as caught, expected_format("box", "read the answer"):
        json.loads("{")
    assert caught.value.brief.startswith("Cannot read the answer on box")


def test_temperatures_are_drawn_on_one_scale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    days = {"first": "2013-01-01", "last": "2013-01-03"}
    report_output.show_temperatures(
        [
            {"city": "Oslo,NO", "means_f": [0.0, 30.0, 60.0], "min_f": -4.2, "max_f": 71.0, **days},
            {"city": CLEAR, "means_f": [80.0], "min_f": 70.0, "max_f": 90.0, **days},
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Mean temperature of each day, 2013-01-01 to 2013-01-03",
        "Oslo,NO    ▁▄▇  -4 to 71 °F",
        "a\\x1b[2Jb    █  70 to 90 °F",
    ]


def test_unpaired_surrogate_is_an_escape_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"ü": "a\ud800"})
    print_json_line({"ü": "a\ud800"})
    assert capsys.readouterr().out == '{\n  "ü": "a\\ud800"\n}\n{"ü": "a\\ud800"}\n'
