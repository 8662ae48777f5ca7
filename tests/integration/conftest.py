"""Shared fixtures: a PostgreSQL 16, the analytics venv, and the replay of OpenWeather."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab.pipeline_contract import CLICKHOUSE_SETTINGS, S3_SECRET
from homelab.render import render
from tests.integration import pg
from tests.integration.waiting import until_started
from tests.scripts import ROOT, SHARED_SCRIPTS

KEY = "the-replays-own-key"


@pytest.fixture(scope="session")
def postgres() -> Iterator[pg.Server]:
    """A server for the whole session; each test creates its own databases."""
    if pg.archive() is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    with pg.server() as running:
        yield running


@pytest.fixture(scope="session")
def analytics_python() -> Path:
    """The interpreter of the analytics platform's venv, with dbt and DuckDB from the lock file."""
    python = ROOT / ".venv-analytics" / "bin" / "python"
    if not python.exists():
        pytest.skip(".venv-analytics is missing: ./bootstrap --test")
    return python


@pytest.fixture(scope="session")
def extensions(analytics_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with DuckDB's postgres extension, installed as in a deploy."""
    folder = tmp_path_factory.mktemp("extensions")
    command = [str(analytics_python), str(SHARED_SCRIPTS / "install_extension.py")]
    missing = subprocess.run([*command, "--check", str(folder)], check=False, capture_output=True, timeout=60)
    assert missing.returncode == 1
    subprocess.run([*command, str(folder)], check=True, capture_output=True, timeout=60)
    subprocess.run([*command, "--check", str(folder)], check=True, capture_output=True, timeout=60)
    return folder


@dataclass(frozen=True)
class Replay:
    """A running replay server; `state` is the file with its position."""

    url: str
    state: Path


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    """The replay of OpenWeather, started as in the lab, on a free port."""
    with replay_server(tmp_path) as running:
        yield running


@contextmanager
def replay_server(tmp_path: Path, *options: str) -> Iterator[Replay]:
    """Run a replay server with these further options."""
    key, state, port = tmp_path / "key", tmp_path / "replay.json", pg.free_port()
    key.write_text(KEY + "\n")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "homelab.lab.openweather",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--key-file",
            str(key),
            "--state",
            str(state),
            *options,
        ],
        cwd=ROOT,
        env=os.environ,
    )
    try:
        health = f"http://127.0.0.1:{port}/healthz"
        until_started(process, lambda: urllib.request.urlopen(health, timeout=1).close())
        yield Replay(f"http://127.0.0.1:{port}", state)
    finally:
        process.terminate()
        process.wait(10)


def write_profiles(
    data: Path, extensions: Path, memory_limit: str, *, lake: bool = False, clickhouse: bool = False
) -> None:
    """Write profiles.yml of the weather to its folder of data, as a deploy does."""
    text = render(
        "pipelines/profiles.yml.j2",
        profile="weather",
        warehouse=str(data / "warehouse.duckdb"),
        threads=2,
        extension_directory=str(extensions),
        memory_limit=memory_limit,
        lake=lake,
        s3_secret=S3_SECRET,
        clickhouse_settings=CLICKHOUSE_SETTINGS,
        clickhouse=clickhouse,
    )
    (data / "profiles.yml").write_bytes(text)
