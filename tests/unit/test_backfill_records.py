"""Records of a backfill: the records in each form of a file, and their cities."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests import scripts  # noqa: F401 - makes the scripts importable

from backfill_records import RecordParser, read_records  # isort: skip

KNOWN = {7: "Newark,US", 8: "Turin,IT"}
DIGITS = "9" * 5000


def observation(**more: Any) -> dict[str, Any]:
    return {"dt": 1577836800, "main": {"temp": 280.0}, **more}


def judged(text: str) -> list[tuple[str, str]]:
    """Return the city, as in the record's line, and the reason of each record."""
    parser = RecordParser(None, "standard", KNOWN)
    records = [parser.parse(each) for each in read_records(io.BytesIO(text.encode()))]
    return [("" if each.reason else each.line.split(b"\t")[1].decode(), each.reason) for each in records]


GOOD = json.dumps(observation(id=7))
OUT_OF_RANGE = "the response's main.temp is out of range"


@pytest.mark.parametrize("form", ["[\n%s\n]", "[%s]", "%s"])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ('"main": {"temp": %s}', OUT_OF_RANGE),
        ('"main": {"temp": -%s}', OUT_OF_RANGE),
        ('"main": {}, "dt": %s', "the response's time `dt` is out of range: over 1e300"),
        ('"main": {}, "unused": %s', ""),  # as any other field that no model reads
    ],
)
def test_number_of_many_digits_spoils_its_record_only(form: str, key: str, reason: str) -> None:
    bad = f'{{"id": 8, "dt": 1577836800, {key % DIGITS}}}'
    text = form % ("\n" if form == "%s" else ",\n").join([GOOD, bad, GOOD])
    assert judged(text) == [("Newark,US", ""), ("" if reason else "Turin,IT", reason), ("Newark,US", "")]


def test_body_in_quarantine_has_all_digits() -> None:
    text = f'[\n{{"id": 7, "dt": 1577836800, "main": {{"temp": {DIGITS}}}}}\n]'
    (found,) = read_records(io.BytesIO(text.encode()))
    assert DIGITS.encode().hex().encode() in RecordParser(None, "standard", KNOWN).parse(found).line


@pytest.mark.parametrize(
    ("more", "own", "city"),
    [
        ({"city_id": 7}, {}, "Newark,US"),
        ({"city_id": 7, "units": "standard", "cnt": 1, "cod": "200"}, {}, "Newark,US"),
        ({"city_id": 7}, {"id": 8}, "Turin,IT"),
        ({"city_id": 7}, {"city_id": 8}, "Turin,IT"),
        ({"city_id": 9}, {"name": "Oslo"}, "Oslo"),
        ({"city_id": 7, "city": "Bern,CH"}, {}, "Bern,CH"),
        ({"city_id": 7, "city": {"id": 8}}, {}, "Newark,US"),
        ({"city": {"id": 8}}, {}, "Turin,IT"),
        ({"city_id": "7"}, {"name": "Oslo"}, "Oslo"),
    ],
)
@pytest.mark.parametrize("form", ["%s", "[%s]", "%s\n%s"])
def test_city_of_a_saved_answer(more: dict[str, Any], own: dict[str, Any], city: str, form: str) -> None:
    text = form.replace("%s", json.dumps({**more, "list": [observation(**own)]}))
    assert judged(text) == [(city, "")] * form.count("%s")
