"""OpenWeather's API: one city's weather, now or hour by hour in the past, asked for until it answers."""

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
from answers import LARGEST, FetchError, Rejected

# https://openweathermap.org/current: the API is asked again only where another try can help.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_MINUTE = 61.0  # seconds; a little longer, as the server counts when a request arrives


class _TryAgain(Exception):
    """An attempt failed in a way that passes; `after` is how many seconds the server asked to wait."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A place to ask for: by coordinates, else by OpenWeather's id, else by name."""

    name: str
    id: int | None = None
    latitude: float | None = None
    longitude: float | None = None

    def query(self) -> dict[str, str]:
        """The parameters that name this place."""
        if self.latitude is not None and self.longitude is not None:
            return {"lat": str(self.latitude), "lon": str(self.longitude)}
        return {"q": self.name} if self.id is None else {"id": str(self.id)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait and how often to ask; times in seconds. The functions are the clock's, for tests."""

    attempts: int = 5
    request: float = 10
    run: float = 600
    first_pause: float = 1
    longest_pause: float = 60
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else doubling, half of it by chance."""
        if asked is not None:
            return asked
        longest = min(self.longest_pause, self.first_pause * 2.0**attempt)
        return longest * (0.5 + self.jitter() / 2)


class Limit:
    """Lets at most so many requests begin within any minute (0: any number); may be shared between threads."""

    def __init__(self, a_minute: int, patience: Patience) -> None:
        self._patience, self._lock = patience, threading.Lock()
        self._begun, self._held = deque[float](maxlen=a_minute), float("-inf")
        self.granted = 0  # requests

    def wait(self, until: float) -> bool:
        """Sleep until it is this request's turn; False, and at once, if that comes too late."""
        with self._lock:
            now = self._patience.clock()
            full = self._begun.maxlen and len(self._begun) == self._begun.maxlen
            turn = max(now, self._held, self._begun[0] + _MINUTE if full else now)
            if turn >= until:
                return False
            self._begun.append(turn)
            self.granted += 1
        if turn > now:
            self._patience.sleep(turn - now)
        return True

    def hold(self, seconds: float) -> None:
        """Nobody's turn comes sooner than this: the server has had enough."""
        with self._lock:
            self._held = max(self._held, self._patience.clock() + seconds)


@dataclass(slots=True, kw_only=True)
class Client:
    """Asks one API with one key; may be shared between threads."""

    base_url: str
    api_key: str = field(repr=False)
    units: str
    patience: Patience
    limit: Limit
    until: float  # on the patience's clock: when the run ends
    at_once: int = 8  # connections that are kept
    refused: str = ""  # what the API said of a key that it does not know
    pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.PoolManager(maxsize=self.at_once)

    def current(self, city: City) -> bytes:
        """The present weather: the answer's body, exactly as it came. Raises FetchError."""
        return self._answer("data/2.5/weather", city.query())

    def history(self, city: City, start: int, end: int) -> bytes:
        """Each hour from `start` to `end` (seconds since 1970, at most a week), as it came. Raises FetchError."""
        return self._answer(
            "data/2.5/history/city", {**city.query(), "type": "hour", "start": str(start), "end": str(end)}
        )

    def _answer(self, path: str, query: Mapping[str, str]) -> bytes:
        why = "there was no time left to ask"
        for attempt in range(self.patience.attempts):
            try:
                return self._ask(path, query)
            except _TryAgain as failure:
                why = str(failure)
                pause = self.patience.pause(attempt, failure.after)
                if attempt + 1 == self.patience.attempts:
                    raise FetchError(f"{why}; asked {attempt + 1} times") from None
                if self._left() <= pause:
                    raise FetchError(f"{why}; no time left to wait {pause:.0f} s and ask again") from None
                self.patience.sleep(pause)
        raise FetchError(why)

    def _left(self) -> float:
        return self.until - self.patience.clock()

    def _ask(self, path: str, query: Mapping[str, str]) -> bytes:
        if self.refused:
            raise FetchError(self.refused)
        if not self.limit.wait(self.until):
            raise FetchError("there was no time left to ask")
        seconds = min(self.patience.request, self._left())
        if seconds <= 0:
            raise FetchError("there was no time left to ask")
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
                body = self._read(response, self.patience.clock() + seconds)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            # The text of urllib3's errors quotes the URL, and with it the key.
            raise _TryAgain(f"no answer ({type(error).__name__})") from None
        if response.status == 200:
            return body
        said = f"HTTP {response.status}: {self._message(body)}"
        if response.status in RETRIED:
            after = retry_after(response.headers)
            if response.status == 429 and after:
                self.limit.hold(after)
            raise _TryAgain(said, after)
        if response.status == 401:
            self.refused = said  # for every city, and each further question counts against the key
        raise FetchError(said)

    def _read(self, response: urllib3.BaseHTTPResponse, until: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > LARGEST:
                raise Rejected(f"the answer is longer than {LARGEST} bytes", bytes(body))
            if self.patience.clock() > until:
                raise _TryAgain("the answer took too long")
        return bytes(body)

    def _message(self, body: bytes) -> str:
        try:
            said = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            said = "no reason given"
        text = " ".join(str(said).split())[:200]
        for form in {self.api_key, quote(self.api_key), quote_plus(self.api_key)}:
            text = text.replace(form, "***")
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None without a usable one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
