"""The times at which the ingestion was scheduled: Airflow's presets and cron's five fields, in UTC.

Airflow reads the fields with croniter 7, whose rules these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
# OpenWeather renews its observations every 10 minutes: a shorter interval returns the same one twice.
SHORTEST = timedelta(minutes=10)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def times_between(schedule: str, first: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the scheduled times from `first` until `until`, exclusive. Raises ValueError for an unknown schedule."""
    fields = PRESETS.get(schedule, schedule).split()
    if len(fields) != 5:
        raise ValueError(f"cannot read the schedule {schedule!r}")
    minutes, hours = _values(fields[0], 0, 59), _values(fields[1], 0, 23)
    days, months = _values(fields[2], 1, 31), _values(fields[3], 1, 12, _MONTHS)
    weekdays = _values(fields[4], 0, 6, _DAYS)
    any_day = _is_any(fields[2], len(days) == 31, fields[4])
    any_weekday = _is_any(fields[4], len(weekdays) == 7, fields[2])
    day = first.astimezone(UTC).date()
    while day <= until.astimezone(UTC).date():
        if day.month in months and _matches(day, days, weekdays, any_day, any_weekday):
            for hour in hours:
                for minute in minutes:
                    time = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                    if first <= time < until:
                        yield time
        day += timedelta(days=1)


def _is_any(field: str, has_all_values: bool, other: str) -> bool:
    """Return True if the day of the month or the weekday is unrestricted; `other` is the other of these fields.

    A step restricts a field, as in `*/2`. A field with all values does so if the other one has no `*`.
    """
    return "*" in field.split(",") or (has_all_values and "*" in other)


def _matches(day: date, days: Sequence[int], weekdays: Sequence[int], any_day: bool, any_weekday: bool) -> bool:
    """Cron's rule: if both the day of the month and the weekday are restricted, either of them is enough."""
    in_days, in_weekdays = day.day in days, (day.weekday() + 1) % 7 in weekdays
    return in_days and in_weekdays if any_day or any_weekday else in_days or in_weekdays


def _values(field: str, low: int, high: int, names: Sequence[str] = ()) -> list[int]:
    found: set[int] = set()
    size = high - low + 1
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, dash, last = span.partition("-")
        start = low if span == "*" else _number(first, low, names)
        end = _number(last, low, names) if dash else high if span == "*" or step else start
        if dash and start == end:  # all values
            start, end = low, high
        elif end < start:  # over the end of the week or of the year
            end += size
        found.update(low + (value - low) % size for value in range(start, end + 1, int(step or 1)))
    return sorted(found)


def _number(text: str, low: int, names: Sequence[str]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) % len(_DAYS) if names is _DAYS else int(text)  # Sunday is 0 and 7


def expected_times(schedules: Sequence[tuple[datetime, str]], until: datetime) -> list[datetime]:
    """Return the times that the schedules expect from the first `valid_from` on; the hours before it are not included.

    Each schedule counts until the next one. Times less than 10 minutes after the previous one are merged with it.
    """
    found: list[datetime] = []
    if not schedules:
        return found
    begin = schedules[0][0]
    last = (begin - timedelta(microseconds=1)).replace(minute=0, second=0, microsecond=0)  # before it, hours count
    for number, (valid_from, schedule) in enumerate(schedules):
        end = schedules[number + 1][0] if number + 1 < len(schedules) else until
        for time in times_between(schedule, valid_from, min(end, until)):
            if time - last >= SHORTEST:
                found.append(time)
                last = time
    return found
