"""A user's own pipeline with `target: lake`, on a real PostgreSQL 16 and a real SeaweedFS; wrong storages."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.model.object_storage import BUCKET
from tests.integration import pg, seaweed
from tests.integration.test_own_pipeline import AVERAGES, Prices, create_prices
from tests.integration.test_own_pipeline import server as server
from tests.scripts import script
from tests.unit.test_lake import inventory

from contract import EXIT  # isort: skip

pytestmark = [
    pytest.mark.skipif(pg.archive() is None, reason="PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test"),
    pytest.mark.skipif(seaweed.program() is None, reason="SeaweedFS is not in .venv/seaweedfs: ./bootstrap --test"),
    pytest.mark.timeout(300),
]
MORE = "insert into prices.readings values ('gas', '2026-01-03', 1)"


@pytest.fixture(scope="module")
def storage() -> Iterator[seaweed.Storage]:
    with seaweed.storage() as running:
        yield running


@dataclass(frozen=True, slots=True)
class InLake:
    """The pipeline `prices` with its lake."""

    prices: Prices

    def script(self, name: str, *words: str) -> Any:
        """Run a script with the pipeline's variables; return its last line."""
        return json.loads(self.prices._run(0, str(self.prices.python), script(name), *words).splitlines()[-1])

    def query_at(self, time: datetime, sql: str) -> Any:
        """Return the rows of a query of an earlier time."""
        return self.script("query.py", "--at", time.isoformat(), sql)

    def store_more(self) -> None:
        """Store another row."""
        with self.prices.connect("prices") as connection:
            connection.execute(MORE)


@pytest.fixture
def lake(
    server: pg.Server, storage: seaweed.Storage, analytics_python: Path, extensions: Path, tmp_path: Path
) -> Iterator[InLake]:
    new_pipeline(tmp_path, "prices", "csv")
    wanted = inventory(tmp_path, {"prices": {"path": "pipelines/prices", "target": "lake"}})
    declared = wanted.object_storage("prices")
    assert declared
    storage.create_bucket(declared.bucket)
    variables = {
        **storage.variables,
        "S3_URL": declared.url,
        "LAKE_SCHEMA": "prices",
        "LAKE_RETENTION_SECONDS": "86400",
        "DUCKDB_EXTENSIONS": str(extensions),
    }
    prices = create_prices(server, analytics_python, extensions, tmp_path, wanted, **variables)
    prices.apply_schema()
    yield InLake(prices)
    with server.connect("project_data") as connection:
        connection.execute("drop schema prices cascade")
    with server.connect("lake") as connection:
        connection.execute("drop schema prices cascade")


def test_own_pipeline_is_built_queried_and_moved_in_the_lake(lake: InLake) -> None:
    prices = lake.prices
    prices.fetch()
    assert prices.build()["status"] == "success"
    assert not Path(prices.layout.data, "warehouse.duckdb").exists()
    before, rows = datetime.now(UTC), prices.query(AVERAGES)
    assert len(rows) == 4
    assert lake.query_at(before, AVERAGES) == rows
    lake.store_more()
    prices.build()
    assert len(prices.query(AVERAGES)) == 5
    assert lake.query_at(before, AVERAGES) == rows
    for target, is_file in (("file", True), ("lake", False)):
        moved = lake.script("move_target.py", "--data", prices.layout.data, "--to", target)
        assert (moved["moved"], moved["rows"] >= 5) == (True, True)
        changed = Path(prices.layout.data, "warehouse.duckdb").stat().st_mtime_ns
        prices.build()
        assert (Path(prices.layout.data, "warehouse.duckdb").stat().st_mtime_ns != changed) == is_file
        assert len(prices.query(AVERAGES)) == 5
    assert lake.query_at(datetime.now(UTC), AVERAGES) == prices.query(AVERAGES)


def test_storage_that_refuses_a_build_is_one_error_and_loses_nothing(
    lake: InLake, storage: seaweed.Storage, tmp_path: Path
) -> None:
    prices, environment = lake.prices, Path(lake.prices.layout.environment)
    prices.fetch()
    prices.build()
    rows, given = prices.query(AVERAGES), environment.read_text()
    lake.store_more()
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout"]
    subprocess.run(["openssl", *words, tmp_path / "key", "-out", tmp_path / "ca"], check=True, capture_output=True)
    wrong_key = "wrong-" + "k" * 20
    for change, cause in (
        ({"S3_ENDPOINT": "127.0.0.1:9"}, "Could not connect|Connection refused"),
        ({"S3_ENDPOINT": "no-storage.invalid:8333"}, "Could not resolve"),
        ({"S3_SECRET_ACCESS_KEY": wrong_key}, "403"),
        ({"S3_ACCESS_KEY_ID": "nobody"}, "403"),
        ({"S3_CA_FILE": str(tmp_path / "ca")}, "SSL"),
        ({"S3_CA_FILE": str(tmp_path / "missing")}, "missing|SSL|certificate"),
    ):
        prices.set_variables(**change)
        report = prices.build(expect=EXIT.failed)
        (problem,) = [each["message"] for each in report["problems"]]
        assert problem.startswith("Cannot reach the object storage "), problem
        assert re.search(cause, problem), problem
        assert wrong_key not in problem
        assert storage.secret not in problem
        assert prices.query(AVERAGES) == rows
        environment.write_text(given)
    prices.set_variables(S3_URL="s3://pipeline-none")
    report = prices.build(expect=EXIT.build_failed)
    (problem,) = [each["message"] for each in report["problems"]]
    assert problem.startswith("Cannot open the lake: its objects are in s3://pipeline-prices/lake/, but the object")
    environment.write_text(given)
    assert prices.build()["status"] == "success"
    assert len(prices.query(AVERAGES)) == len(rows) + 1


@pytest.mark.parametrize(
    "name", ["a-b", "a--b", "a-", "a-s3alias", "a.b", "a..b", "xn--a", "A-b", "a_b", "ab", "1.2.3.4", "a" * 64]
)
def test_server_accepts_the_same_names_as_the_inventory(storage: seaweed.Storage, name: str) -> None:
    assert storage.create_bucket(name) == bool(re.fullmatch(BUCKET, name))
