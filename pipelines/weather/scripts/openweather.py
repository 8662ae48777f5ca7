"""A client for OpenWeather's API: current and past weather of a city, with retries and a rate limit."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote, quote_plus

import urllib3
from validation import MAX_BYTES, FetchError, InvalidResponse, printable

# https://openweathermap.org/current: only these can succeed on another attempt.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_WINDOW = 61.0  # seconds: longer than a minute, as the server counts requests on arrival


class _TransientError(Exception):
    """An attempt failed and may be repeated; `retry_after` is the pause in seconds that the server asks for."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A city to query: by coordinates, else by OpenWeather's id, else by name."""

    name: str
    id: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    timezone: str | None = None  # IANA name; for days in local time

    def query(self) -> dict[str, str]:
        """Return the query parameters that identify the city."""
        if self.latitude is not None and self.longitude is not None:
            return {"lat": str(self.latitude), "lon": str(self.longitude)}
        return {"q": self.name} if self.id is None else {"id": str(self.id)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Attempts, deadlines and pauses; times in seconds. Tests replace the clock's functions."""

    attempts: int = 5
    request_deadline: float = 10
    run_deadline: float = 600
    first_pause: float = 1
    longest_pause: float = 60
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def pause(self, attempt: int, retry_after: float | None) -> float:
        """Return the seconds before the next attempt: the server's wish, else exponential, half of it jitter."""
        if retry_after is not None:
            return retry_after
        longest = min(self.longest_pause, self.first_pause * 2.0**attempt)
        return longest * (0.5 + self.jitter() / 2)


class RateLimit:
    """A limit of requests that start within any minute; 0 means unlimited. Threads may share it."""

    def __init__(self, per_minute: int, policy: RetryPolicy) -> None:
        self._policy, self._lock = policy, threading.Lock()
        self._starts, self._blocked_until = deque[float](maxlen=per_minute), float("-inf")
        self.granted = 0  # requests

    def wait(self, until: float) -> bool:
        """Sleep until the request may start; return False without sleeping if that is after `until`."""
        with self._lock:
            now = self._policy.clock()
            full = self._starts.maxlen and len(self._starts) == self._starts.maxlen
            start = max(now, self._blocked_until, self._starts[0] + _WINDOW if full else now)
            if start >= until:
                return False
            self._starts.append(start)
            self.granted += 1
        if start > now:
            self._policy.sleep(start - now)
        return True

    def block(self, seconds: float) -> None:
        """Start no request within this time, as the server asked."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, self._policy.clock() + seconds)


@dataclass(slots=True, kw_only=True)
class Client:
    """A client of one API with one key. Threads may share it."""

    base_url: str
    api_key: str = field(repr=False)
    units: str
    policy: RetryPolicy
    limit: RateLimit
    until: float  # the end of the run, on the policy's clock
    concurrency: int = 8  # connections that are kept open
    stopped: str = ""  # the reason why no further request is sent
    pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.PoolManager(maxsize=self.concurrency)

    def current(self, city: City) -> bytes:
        """Return the response with the current weather, unchanged. Raises FetchError."""
        return self._get("data/2.5/weather", city.query())

    def history(self, city: City, start: int, end: int) -> bytes:
        """Return the hours from `start` to `end` (Unix seconds, at most a week), unchanged. Raises FetchError."""
        return self._get(
            "data/2.5/history/city", {**city.query(), "type": "hour", "start": str(start), "end": str(end)}
        )

    def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        reason = "the run's deadline has passed"
        for attempt in range(self.policy.attempts):
            try:
                return self._attempt(path, query)
            except _TransientError as error:
                reason = str(error)
                pause = self.policy.pause(attempt, error.retry_after)
                if attempt + 1 == self.policy.attempts:
                    raise FetchError(f"{reason}; {attempt + 1} attempts") from None
                if self._remaining() <= pause:
                    raise FetchError(
                        f"{reason}; the run's deadline is before the next attempt in {pause:.0f} s"
                    ) from None
                self.policy.sleep(pause)
        raise FetchError(reason)

    def _remaining(self) -> float:
        return self.until - self.policy.clock()

    def _attempt(self, path: str, query: Mapping[str, str]) -> bytes:
        if self.stopped:
            raise FetchError(self.stopped)
        if not self.limit.wait(self.until):
            raise FetchError("the run's deadline has passed")
        seconds = min(self.policy.request_deadline, self._remaining())
        if seconds <= 0:
            raise FetchError("the run's deadline has passed")
        url = f"{self.base_url.rstrip('/')}/{path}"
        try:
            response = self.pool.request(
                "GET",
                url,
                fields={**query, "appid": self.api_key, "units": self.units},
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=seconds, read=seconds),
                preload_content=False,
            )
            try:
                body = self._read(response, self.policy.clock() + seconds)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            # The text of urllib3's errors quotes the URL, and with it the key.
            raise _TransientError(f"no response ({type(error).__name__})") from None
        if response.status == 200:
            return body
        reason = f"HTTP {response.status}: {self._message(body)}"
        if response.status in RETRYABLE_STATUSES:
            after = retry_after(response.headers)
            if response.status == 429 and after:
                self.limit.block(after)
            raise _TransientError(reason, after)
        if response.status == 401:
            self.stopped = reason  # holds for every city, and each further request counts against the key
        raise FetchError(reason)

    def _read(self, response: urllib3.BaseHTTPResponse, until: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > MAX_BYTES:
                raise InvalidResponse(f"the response is longer than {MAX_BYTES} bytes", bytes(body))
            if self.policy.clock() > until:
                raise _TransientError("the response took too long")
        return bytes(body)

    def _message(self, body: bytes) -> str:
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            message = "no message"
        text = printable(" ".join(str(message).split())[:200])
        for form in {self.api_key, quote(self.api_key), quote_plus(self.api_key)}:
            text = text.replace(form, "***")
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, given as seconds or as a date; None without a valid one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
