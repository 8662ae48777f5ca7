"""Ingestions on real file systems that are full: observations wait in the spool, and the next run stores them."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from homelab.pipeline_contract import EXIT
from tests.integration import pg
from tests.integration.conftest import Replay
from tests.integration.test_pipeline import KEY
from tests.integration.test_raw_tables import deploy
from tests.scripts import SCRIPTS

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="a file system of its own needs root and loop"
)


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount an ext4 file system of that size, open to all users, without blocks that only root may use."""
    image, point = folder / f"{megabytes}.img", folder / f"{megabytes}"
    image.touch()
    os.truncate(image, megabytes * 2**20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        point.chmod(0o777)
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder for the duration of the block."""
    filler = folder / "filler"
    try:
        for size in ("1M", "4k", "512"):
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={filler}.{size}", f"bs={size}"], check=False, stderr=subprocess.DEVNULL
            )
        os.sync()
        yield
    finally:
        for each in folder.glob("filler.*"):
            each.unlink()


class Ingestion:
    """The ingestion of one city into a database of its own."""

    def __init__(self, server: pg.Server, python: Path, data: Path, url: str) -> None:
        self._server, self._python = server, python
        self._environment = {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
            **server.environment("full_disk", "analytics", "analytics"),
            "WEATHER_DATA": str(data),
            "WEATHER_CITIES": '["Newark,US"]',
            "OPENWEATHER_BASE_URL": url,
            "OPENWEATHER_API_KEY": KEY,
        }

    def run(self, **environment: str) -> tuple[int, dict[str, object], str]:
        """Return the exit status, the summary, and the errors of one run."""
        done = subprocess.run(
            [self._python, SCRIPTS / "ingest_weather.py"],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr

    def hours(self) -> list[int]:
        """Return the times of the stored observations."""
        with self._server.connect("full_disk") as connection:
            rows = connection.execute("select (data ->> 'dt')::int from raw.weather_observations order by 1").fetchall()
        return [int(str(row[0])) for row in rows]


@pytest.fixture
def places() -> Iterator[tuple[Path, Path]]:
    """Return a disk for the server and one for the data of the pipeline."""
    with tempfile.TemporaryDirectory(prefix="full-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user passes through it
        with disk(folder, 500) as server, disk(folder, 20) as data:
            yield server, data


@pytest.fixture
def ingestion(
    places: tuple[Path, Path], analytics_python: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ingestion]:
    monkeypatch.setattr(tempfile, "tempdir", str(places[0]))
    with ExitStack() as opened:
        server = opened.enter_context(pg.server())
        for role in ("analytics", "dbt"):
            opened.enter_context(server.role(role, role))
        name = opened.enter_context(server.database("full_disk"))
        with server.connect() as connection:
            connection.execute(f"revoke all on database {name} from public".encode())
        deploy(server, name)
        found = Ingestion(server, analytics_python, places[1], replay.url)
        assert found.run()[0] == EXIT.success
        yield found


def test_observations_wait_in_the_spool_while_the_disk_of_postgresql_is_full(
    ingestion: Ingestion, places: tuple[Path, Path]
) -> None:
    with full(places[0]):
        for _ in range(3):
            status, summary, _ = ingestion.run()
            assert (status, summary["spooled"], summary["failed"]) == (EXIT.failed, 1, 0)
            assert "No space left on device" in str(summary["problem"])
    status, summary, errors = ingestion.run()
    assert (status, summary["recovered"], errors) == (EXIT.success, 3, "")
    hours = ingestion.hours()
    assert len(hours) == 5
    assert {later - earlier for earlier, later in pairwise(hours)} == {3600}, "no hour is lost"


def test_observations_are_stored_although_the_disk_of_the_pipeline_is_full(
    ingestion: Ingestion, places: tuple[Path, Path]
) -> None:
    with full(places[1]):
        for _ in range(2):
            status, summary, errors = ingestion.run()
            assert (status, summary["stored"], summary["failed"]) == (EXIT.failed, 1, 0)
            assert "cannot write the summary" in errors
            assert "No space left on device" in errors
    status, summary, errors = ingestion.run()
    assert (status, summary["stored"], errors) == (EXIT.success, 1, "")
    hours = ingestion.hours()
    assert len(hours) == 4
    assert {later - earlier for earlier, later in pairwise(hours)} == {3600}, "no hour is lost"


def test_observation_that_neither_the_disk_nor_postgresql_takes_has_failed_by_name(
    ingestion: Ingestion, places: tuple[Path, Path]
) -> None:
    with full(places[1]):
        status, summary, errors = ingestion.run(PGPORT=str(pg.free_port()))
    assert (status, summary["failed"], summary["spooled"]) == (EXIT.failed, 1, 0)
    assert "error: Newark,US: " in errors
    status, summary, errors = ingestion.run()
    assert (status, summary["stored"], errors) == (EXIT.success, 1, "")
