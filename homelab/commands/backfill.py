"""`homelab pipeline backfill` and `status`: history, from a file or OpenWeather, into the raw table; how it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from homelab.commands.deploy import connect
from homelab.errors import HomelabError, InputError
from homelab.host import CommandFailed, Host, argv, check
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory, SecretStore
from homelab.progress import Progress
from homelab.runtime.job_progress import run_with_progress
from homelab.services.analytics import PUBLISHED, ROOT, SCRIPTS, as_analytics

_DEADLINE = 4 * 3600.0  # seconds
# Exit statuses of backfill_weather.py; the last two are those of history_weather.py alone.
_SOME_REFUSED, _BAD_FILE, _KEY_REFUSED, _BUSY = 4, 2, 3, 5
_FAR = f"cat {ROOT}/data/history.progress 2>/dev/null || true"


@dataclass(frozen=True)
class Backfilled:
    """What came of it: observations that are new, that were there, and that cannot go in, with the reasons.

    Of OpenWeather's history also: how many requests it took, how many weeks of a city were stored whole already, and
    which cities failed.
    """

    stored: int
    unchanged: int
    quarantined: int
    reasons: dict[str, int]
    requests: int = 0
    whole: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        said = f"{self.stored} observations stored, {self.unchanged} were there already"
        if self.whole:
            said += f", {self.whole} weeks were whole and not asked for again"
        said += "".join(f"\n  {city}: {why}" for city, why in self.failed.items())
        if self.quarantined:
            reasons = "".join(f"\n  {count} times: {reason}" for reason, count in self.reasons.items())
            said += f", {self.quarantined} cannot go in and are kept in raw.quarantine:{reasons}"
        return f"{said}\nThe marts take them in with the next run: homelab pipeline run"


@dataclass(frozen=True)
class PipelineStatus:
    """The last build and fetch as their scripts tell them, the last runs, and the hours that are missing."""

    last_build: dict[str, Any] | None
    last_ingest: dict[str, Any] | None
    published: dict[str, Any] | None
    spooled_bytes: int
    runs: Sequence[dict[str, Any]]
    missing: Sequence[dict[str, Any]]

    def lines(self) -> Iterator[str]:
        """How it is, in words."""
        build, fetch, published = self.last_build, self.last_ingest, self.published
        if build is None:
            yield "build      none yet"
        else:
            yield (
                f"build      {build['status']} at {build['finished']}, {build['seconds']} s: {build['models_built']}"
                f" models, {build['tests_passed']} tests passed, {build['tests_failed']} failed"
            )
            yield from (f"           {problem['status']}: {problem['node']}" for problem in build["problems"])
        if fetch is not None:
            yield (
                f"fetch      {fetch['finished']}: {fetch['stored']} stored, {fetch['unchanged']} unchanged, "
                f"{fetch['failed']} failed of {fetch['asked']}"
            )
        if published is not None:
            yield (
                f"published  {published['cities']} cities, newest day {published['newest_day']}, newest row "
                f"{published['newest_row']}"
            )
        if self.spooled_bytes:
            yield f"waiting    {self.spooled_bytes} bytes on disk, for Postgres"


def backfill(
    inventory: Inventory,
    file: Path,
    city: str | None,
    units: str | None,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
) -> Backfilled:
    """Bring a file's observations in. Raises InputError when it cannot be read, as a file or as JSON."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read", str(error), "Name a file of JSON or JSON lines.") from error
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    options = [*(["--city", city] if city else []), *(["--units", units] if units else [])]
    command = as_analytics(argv("python", f"{SCRIPTS}/backfill_weather.py", *options))
    with connect(container, key, known_hosts) as host, progress.step(container.name, f"bringing in {file.name}"):
        result = host.run(command, stdin=content, timeout=_DEADLINE)
    if result.status == _BAD_FILE:
        said = result.stderr.decode(errors="replace").strip().removeprefix("error: ")
        raise InputError(
            f"{file} cannot be read as observations",
            said[:1500],
            "It has to hold OpenWeather's answers: one JSON object a line, or a list of them.",
        )
    if result.status not in (0, _SOME_REFUSED):
        raise CommandFailed(container.name, result, f"bringing in {file.name}")
    return Backfilled(**json.loads(result.text.splitlines()[-1]))


def history(
    inventory: Inventory,
    first: date,
    until: date | None,
    cities: Sequence[str],
    units: str | None,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
) -> Backfilled:
    """Bring in OpenWeather's history from `first` to before `until` (today, if left out), of all cities or of these.

    Raises InputError for days that are no span of time in the past, HomelabError when the key's plan has no history.
    """
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    with connect(container, key, known_hosts) as host:
        return history_on(host, first, until, cities, units, progress)


def history_on(
    host: Host, first: date, until: date | None, cities: Sequence[str], units: str | None, progress: Progress
) -> Backfilled:
    """As `history`, on the container itself."""
    options = [
        "--from",
        str(first),
        *(["--to", str(until)] if until else []),
        *(word for city in cities for word in ("--city", city)),
        *(["--units", units] if units else []),
    ]
    command = as_analytics(argv("python", f"{SCRIPTS}/history_weather.py", *options))
    what = f"bringing in the history since {first}"
    with progress.step(host.name, what) as far:
        result = run_with_progress(partial(host.run, command, timeout=_DEADLINE), lambda: host.run(_FAR).text, far)
    said = result.stderr.decode(errors="replace").strip().removeprefix("error: ")
    if result.status == _BAD_FILE:
        raise InputError(
            "The history cannot be asked for",
            said[:1500],
            "Name days as in --from 2019-01-01 --to "
            "2019-02-01; if the pipeline's settings are meant, run `homelab deploy`.",
        )
    if result.status == _KEY_REFUSED:
        raise HomelabError(
            "OpenWeather refuses the key for its history",
            said[:1500],
            "The free plan has none: see https://openweathermap.org/price, or bring in a file: homelab "
            "pipeline backfill FILE",
        )
    if result.status == _BUSY:
        raise HomelabError(
            "A backfill is going on",
            f"It was begun earlier, and goes on in {host.name}.",
            "Wait for its end; what it has stored is not asked for again.",
        )
    if result.status not in (0, _SOME_REFUSED):
        raise CommandFailed(host.name, result, what)
    return Backfilled(**json.loads(result.text.splitlines()[-1]))


def status(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts) -> PipelineStatus:
    """How the pipeline is. Raises HomelabError when that cannot be read."""
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    with connect(container, key, known_hosts) as host:
        said = check(
            host,
            as_analytics(argv("python", f"{SCRIPTS}/pipeline_status.py", "--database", PUBLISHED)),
            "reading how the pipeline is",
        )
    try:
        return PipelineStatus(**json.loads(said.text.splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as error:
        raise HomelabError(
            f"{container.name}: how the pipeline is cannot be read",
            str(error),
            "Run `homelab deploy`: the scripts there may be of another version.",
        ) from error
