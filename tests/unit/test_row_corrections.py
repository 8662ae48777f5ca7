"""Corrections of a user's pipeline: the options of the command line, and the words that reach the scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.cli import corrections
from homelab.commands.pipeline_rows import RowPeriod, backfill_rows, exclude_rows, include_rows
from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Inventory
from homelab.pipeline_contract import EXIT
from tests.unit.test_pipelines import inventory, with_prices

DAY = datetime(2026, 1, 2)
PERIOD = RowPeriod(key=["item=gas"], first=DAY, until=datetime(2026, 1, 3))


@dataclass
class Scripts:
    """A session whose container answers each script with the next result."""

    inventory: Inventory
    results: list[Result]
    commands: list[str] = field(default_factory=list)
    name: str = "analytics-platform"

    @contextmanager
    def connect_to_stage(self, stage: str) -> Iterator[Scripts]:
        """See Session.connect_to_stage."""
        assert stage == "ingestion"
        yield self

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.commands.append(f"{command} {stdin.decode()}")
        return self.results.pop(0)


def answer(document: object) -> Result:
    return Result("", 0, json.dumps(document).encode())


COVERED = {"rows": 2, "first": "2026-01-02T00:00:00+00:00", "last": "2026-01-02T01:00:00+00:00"}


def test_exclusion_is_counted_confirmed_and_added(tmp_path: Path) -> None:
    session: Any = Scripts(with_prices(tmp_path), [answer(COVERED), answer({**COVERED, "id": 7})])
    questions = list[str]()
    outcome = exclude_rows(session, "prices", PERIOD, "wrong", lambda text: not questions.append(text))
    assert questions == ["Exclude 2 rows, from 2026-01-02T00:00:00+00:00 to 2026-01-02T01:00:00+00:00?"]
    assert "`homelab pipeline include 7 --pipeline prices`" in str(outcome)
    count, add = session.commands
    assert "homelab-as-pipeline-prices" in add
    assert "row_exclusions.py count --table readings --time measured_at --key=item=gas" in count.replace("'", "")
    assert "--from 2026-01-02T00:00:00+00:00 --to 2026-01-03T00:00:00+00:00" in count
    assert "--reason wrong --by " in add


def test_refused_exclusion_adds_nothing(tmp_path: Path) -> None:
    session: Any = Scripts(with_prices(tmp_path), [answer(COVERED)])
    assert exclude_rows(session, "prices", PERIOD, "wrong", lambda _: False) is None
    assert len(session.commands) == 1


def test_error_of_the_script_is_shown(tmp_path: Path) -> None:
    session: Any = Scripts(
        with_prices(tmp_path), [Result("", EXIT.bad_input, b"", b"error: there is no exclusion 3\n")]
    )
    with pytest.raises(InputError, match="Cannot include rows of the pipeline prices") as caught:
        include_rows(session, "prices", [3], "right")
    assert caught.value.details == "there is no exclusion 3"


def test_file_reaches_the_script(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item\n")
    session: Any = Scripts(with_prices(tmp_path), [answer({"stored": 3, "unchanged": 1, "replaced": 2})])
    outcome = backfill_rows(session, "prices", tmp_path / "a.csv", replace=True)
    assert str(outcome).startswith("3 rows stored, 1 were already present, 2 replaced\n")
    assert "row_backfill.py --table readings --time measured_at --key=item --replace" in session.commands[0]
    assert session.commands[0].endswith("item\n")


@pytest.mark.parametrize(("key", "error"), [("price=1", "price is not in the key"), ("item", "it has no `=`")])
def test_column_outside_of_the_key_is_refused(tmp_path: Path, key: str, error: str) -> None:
    session: Any = Scripts(with_prices(tmp_path), [])
    period = RowPeriod(key=[key], first=DAY, until=DAY)
    with pytest.raises(InputError, match=error):
        exclude_rows(session, "prices", period, "wrong", lambda _: True)


def test_pipeline_without_a_declared_table_is_refused(tmp_path: Path) -> None:
    with_prices(tmp_path)
    manifest = tmp_path / "pipelines" / "prices" / "pipeline.yaml"
    manifest.write_text("commands: {fetch: scripts/fetch.py}\n")
    session: Any = Scripts(inventory(tmp_path, "prices"), [])
    with pytest.raises(InputError, match="its manifest declares no table for it"):
        include_rows(session, "prices", [1], "right")


@pytest.fixture
def prices_in_the_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line use an inventory with the pipeline `prices`."""
    session = Scripts(with_prices(tmp_path), [])
    monkeypatch.setattr(type(corrections.settings), "session", lambda _: session)


@pytest.mark.usefixtures("prices_in_the_inventory")
@pytest.mark.parametrize(
    "words", [{}, {"city": "A"}, {"all_cities": True, "key": ["item=gas"]}, {"key": ["item=gas"], "reason": " "}]
)
def test_exclusion_of_rows_needs_a_key_and_a_reason(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Cannot exclude"):
        corrections.exclude(**{"pipeline": "prices", "first": DAY, "until": DAY, "reason": "x", **words})


def test_weather_has_no_key() -> None:
    with pytest.raises(InputError, match="the weather has no --key"):
        corrections.exclude(first=DAY, until=DAY, reason="x", key=["item=gas"])


@pytest.mark.usefixtures("prices_in_the_inventory")
@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"words": ["prices", "a.csv", "b.csv"]}, "Cannot backfill b.csv: too many arguments"),
        ({"words": ["prices", "a.csv"], "units": "metric"}, "they are the weather's"),
    ],
)
def test_backfill_of_rows_takes_one_file(words: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        corrections.backfill(**words)
