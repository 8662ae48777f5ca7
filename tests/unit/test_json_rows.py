"""Rows of a query as JSON: every value of PostgreSQL and DuckDB becomes valid JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn

import psycopg
import pytest

from tests import scripts  # noqa: F401 - makes the scripts importable

import query_now  # isort: skip
from contract import EXIT  # isort: skip
from json_rows import to_json, unique_names  # isort: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("1.50"), 1.5),
        (Decimal("NaN"), None),
        (Decimal("-Infinity"), None),
        (Decimal("1e400"), None),  # a double cannot hold it
        (float("nan"), None),
        ({"a": [Decimal("NaN"), float("inf"), 2]}, {"a": [None, None, 2]}),
        (datetime(2026, 11, 27, tzinfo=UTC), "2026-11-27T00:00:00+00:00"),
        (b"\x00", "AA=="),
        (True, True),
    ],
)
def test_value_is_valid_json(value: object, expected: object) -> None:
    found = to_json(value)
    assert found == expected
    json.dumps(found, allow_nan=False)


def test_no_column_is_lost() -> None:
    assert unique_names(["a", "a", "a_1", "a"]) == ["a", "a_1", "a_1_1", "a_2"]


@pytest.mark.parametrize("error", [ValueError("Exceeds the limit (4300 digits)"), RecursionError("too deep")])
def test_value_that_python_cannot_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    class Connection:
        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def execute(self, *_: object, **__: Any) -> NoReturn:
            raise error

    monkeypatch.setattr(psycopg, "connect", lambda **_: Connection())
    monkeypatch.setattr("sys.argv", ["query_now.py", "select '1e5000'::jsonb"])
    assert query_now.main() == EXIT.bad_input
    assert capsys.readouterr().err == f"error: Cannot read a value: {error}. Cast it to text.\n"
