"""The times of a schedule, by the rules of croniter 7, which Airflow uses: compared with it by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from homelab.inventory import schedule
from tests import scripts  # noqa: F401 - makes the scripts importable

from scheduled_times import times_between  # isort: skip

JUNE = range(1, 31)  # of 2026, which begins on a Monday
MONDAYS, SUNDAYS = [1, 8, 15, 22, 29], [7, 14, 21, 28]
ODD = list(JUNE[::2])


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("* *", list(JUNE)),
        # Both are restricted: either of them is enough.
        ("*/2 * 1", sorted({*ODD, *MONDAYS})),
        ("1 * 1", MONDAYS),
        ("2 * mon", sorted([2, *MONDAYS])),
        ("2 * */6", sorted([2, *SUNDAYS, 6, 13, 20, 27])),
        ("*/10 * */6", sorted({1, 11, 21, *SUNDAYS, 6, 13, 20, 27})),
        ("*/1 * 1", list(JUNE)),
        ("1-31 * 1", list(JUNE)),
        ("5 * 0-6", list(JUNE)),
        ("5 * */1", list(JUNE)),
        # All values next to a field with `*`, or `*` itself: only the other one restricts.
        ("* * 1", MONDAYS),
        ("*/1 * *", list(JUNE)),
        ("1-31 * */6", sorted([*SUNDAYS, 6, 13, 20, 27])),
        ("*/10 * 0-6", [1, 11, 21]),
        ("*,5 * 1", MONDAYS),
        ("5,* * 1", MONDAYS),
        ("5 * 1,*", [5]),
        ("*/10 * *", [1, 11, 21]),
        ("*/10 * *,1", [1, 11, 21]),
        # Sunday is 0 and 7.
        ("* * 7", SUNDAYS),
        ("* * 0", SUNDAYS),
        ("* * SUN", SUNDAYS),
        ("* * 6-7", sorted([*SUNDAYS, 6, 13, 20, 27])),
        ("* * 0-7", list(JUNE)),
        ("* * 5/2", [5, 12, 19, 26]),
        ("* * 1/6", MONDAYS),
        ("* * 1/3", sorted([*MONDAYS, 4, 11, 18, 25])),
        ("* * 1-7/3", sorted([*MONDAYS, *SUNDAYS, 4, 11, 18, 25])),
        ("* * 7/2", sorted([*SUNDAYS, 2, 4, 6, 9, 11, 13, 16, 18, 20, 23, 25, 27, 30])),
        # The inventory refuses these, but it has not always done so.
        ("* * fri-mon", sorted([*MONDAYS, *SUNDAYS, 5, 12, 19, 26, 6, 13, 20, 27])),
        ("5-5 * *", list(JUNE)),
        ("5 nov-jun *", [5]),
        ("5 jul-may *", []),
    ],
)
def test_days_of_a_schedule(days: str, expected: list[int]) -> None:
    text = f"30 6 {days}" + (" *" if len(days.split()) == 2 else "")
    found = list(times_between(text, datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)))
    assert found == [datetime(2026, 6, day, 6, 30, tzinfo=UTC) for day in expected]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        *((f"0 0 {day} * {weekday}", "") for day in ("*/2", "1-31", "5,*") for weekday in ("1", "*/2", "0-7", "7")),
        ("5-5 * * * *", "cron's minute '5-5' means all values to Airflow: write only '5'"),
        ("0 0 1,7-7/2 * *", "cron's day of the month '7-7/2' means all values to Airflow: write only '7'"),
        ("0 0 * jan-jan *", "cron's month 'jan-jan' means all values to Airflow: write only 'jan'"),
        ("0 0 * * mon-1", "cron's day of the week 'mon-1' means all values to Airflow: write only 'mon'"),
        ("0 0 ? * 1", "cron's day of the month must be within"),
        ("0 0 L * *", "cron's day of the month must be within"),
        ("0 0 15W * *", "cron's day of the month must be within"),
        ("0 0 * * mon#2", "cron's day of the week must be within"),
        ("0 0 * * fri-mon", "cron's day of the week must be within"),
        ("H 0 * * *", "cron's minute must be within"),
        ("0 0 * * *\u00a0", "must be @hourly"),
        ("0 0 31 2 *,1", "cron's day of the month '31' does not exist in month '2'"),
        ("0 0 31 2 1", ""),
        ("0 0 31 2 */1", ""),
        ("0 0 31,* 2 *", ""),
    ],
)
def test_schedule_that_airflow_reads_in_another_way_is_refused(text: str, error: str) -> None:
    found = schedule.error_in(text)
    assert found is None if not error else found is not None and error in found
