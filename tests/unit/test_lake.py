"""A pipeline with `target: lake`: the inventory, the grants, its files in the container, and the commands."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from homelab.commands.pipeline_move import move
from homelab.commands.pipeline_new import new_pipeline
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import DatabaseGrant, Duration, Inventory, ServiceContext
from homelab.paths import bundled_path
from homelab.pipeline_contract import EXIT, S3_SECRET
from homelab.runtime.marts import query_marts
from homelab.runtime.session import Session
from homelab.services.postgres import contents, hba
from tests.support import FixedSecretStore, NoHost, make_session
from tests.unit.test_pipelines import KEYS, file, steps

S3: dict[str, Any] = {
    "containers": {"object-storage": {"vmid": 175, "ip": ".75", "cores": 1, "memory": 1024, "disk": 32}}
}
S3["containers"]["object-storage"]["services"] = {"s3": {}}


def inventory(folder: Path, pipelines: dict[str, Any], overlay: dict[str, Any] = S3) -> Inventory:
    key = folder / "key"
    key.write_text("openweather-key")
    key.chmod(0o600)
    weather = {"api_key_file": "key", **pipelines.pop("weather", {})}
    path = folder / "overlay.yaml"
    path.write_text(json.dumps({"pipelines": {"weather": weather, **pipelines}, **overlay}))
    return load([bundled_path("inventory.yaml"), path])


def in_lake(folder: Path, **options: str) -> Inventory:
    return inventory(folder, {"weather": {"target": "lake", **options}})


def test_lake_gives_the_role_of_dbt_a_catalog(tmp_path: Path) -> None:
    wanted = in_lake(tmp_path, snapshot_retention="7d")
    weather = wanted.pipeline("weather")
    assert weather.lake
    assert weather.lake.retention == Duration("7d")
    grant = DatabaseGrant("lake", "dbt", "own", "weather")
    assert (wanted.container_with("analytics"), grant) in list(wanted.database_grants())
    postgres = wanted.container_with("postgres")
    context = ServiceContext(inventory=wanted, container=postgres, secret_store=FixedSecretStore(), host_keys=KEYS)
    titles = [str(step) for step in contents(context)]
    assert any("schema weather of lake" in title for title in titles)
    address = str(wanted.container_with("analytics").address)
    rows = [line.split() for line in hba(context).decode().splitlines() if not line.startswith("#")]
    assert [row[3] for row in rows if row[1:3] == ["lake", "dbt"]] == [f"{address}/32"]


def test_file_has_no_catalog_and_no_lake(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, {"weather": {"target": "file"}})
    assert wanted.pipeline("weather").lake is None
    assert not [grant for _, grant in wanted.database_grants() if grant.database == "lake"]
    found = steps(wanted, "analytics")
    root = "/opt/analytics-platform/pipelines/weather"
    assert "LAKE_" not in file(found, f"{root}/pipeline.env")
    assert list(yaml.safe_load(file(found, f"{root}/profiles.yml"))["weather"]["outputs"]) == ["warehouse"]


def test_profile_attaches_the_lake_over_verified_tls(tmp_path: Path) -> None:
    found = steps(in_lake(tmp_path), "analytics")
    root = "/opt/analytics-platform/pipelines/weather"
    environment = file(found, f"{root}/pipeline.env")
    for line in ("LAKE_SCHEMA=weather", "LAKE_RETENTION_SECONDS=2592000", "S3_URL=s3://pipeline-weather"):
        assert line in environment.splitlines()
    outputs = yaml.safe_load(file(found, f"{root}/profiles.yml"))["weather"]["outputs"]
    lake = outputs["lake"]
    assert lake["threads"] == 1
    assert lake["settings"]["global enable_server_cert_verification"] == "true"
    (secret,) = lake["secrets"]
    assert secret.pop("use_ssl") is True
    assert secret.pop("type") == "s3"
    assert secret == {option: f"{{{{ env_var('{variable}') }}}}" for option, variable in S3_SECRET.items()}
    assert [each["alias"] for each in lake["attach"]] == ["pg", "warehouse"]
    assert lake["attach"][1]["path"] == "ducklake:postgres:dbname=lake"
    assert lake["attach"][1]["options"]["data_inlining_row_limit"] == 0


def test_other_pipelines_have_a_lake_too(tmp_path: Path) -> None:
    new_pipeline(tmp_path, "prices")
    prices = {"path": "pipelines/prices", "target": "lake", "snapshot_retention": "2d"}
    wanted = inventory(tmp_path, {"prices": prices})
    pipeline = wanted.pipeline("prices")
    environment = file(steps(wanted, "analytics"), "/opt/analytics-platform/pipelines/prices/pipeline.env")
    assert "LAKE_RETENTION_SECONDS=172800" in environment
    assert pipeline.lake
    assert pipeline.lake.retention == Duration("2d")
    assert pipeline.catalog_grant == DatabaseGrant("lake", "prices_dbt", "own", "prices")


@pytest.mark.parametrize(
    ("pipelines", "overlay", "problem"),
    [
        ({"weather": {"target": "lake"}}, {}, "needs the service `s3`, which no container has"),
        ({"weather": {"target": "ocean"}}, S3, "must be one of 'file', 'lake'"),
        ({"weather": {"target": "lake", "snapshot_retention": "1m"}}, S3, "1h"),
        ({"prices": {"path": "pipelines/prices", "target": "sea"}}, S3, "must be one of 'file', 'lake'"),
        (
            {"prices": {"path": "pipelines/prices", "target": "lake", "snapshot_retention": "x"}},
            S3,
            "snapshot_retention",
        ),
        ({"prices": {"path": "pipelines/prices", "target": "lake"}}, S3, "a `build` script of your own"),
    ],
)
def test_lake_that_cannot_be_is_a_problem(
    tmp_path: Path, pipelines: dict[str, Any], overlay: dict[str, Any], problem: str
) -> None:
    new_pipeline(tmp_path, "prices")
    folder = tmp_path / "pipelines" / "prices"
    if "build" in problem:
        (folder / "scripts" / "build.py").write_text("")
        manifest = folder / "pipeline.yaml"
        manifest.write_text(manifest.read_text().replace("  fetch:", "  build: scripts/build.py\n  fetch:"))
    with pytest.raises(InputError) as caught:
        inventory(tmp_path, dict(pipelines), overlay)
    assert problem in caught.value.details


@dataclass
class Answering(NoHost):
    """A container with one answer; it records the commands."""

    result: Result
    name: str = "analytics-platform"
    commands: list[str] = field(default_factory=list)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.commands.append(command)
        return self.result


def answering(wanted: Inventory, status: int, stdout: str = "", stderr: str = "") -> tuple[Session, Answering]:
    host = Answering(Result("", status, stdout.encode(), stderr.encode()))
    return make_session(wanted, connector=lambda *_: host), host


def test_query_at_a_time_reads_the_lake(tmp_path: Path) -> None:
    session, host = answering(in_lake(tmp_path), 0, '[{"city": "Newark,US"}]')
    assert query_marts(session, "select 1", at=datetime(2026, 11, 1)) == [{"city": "Newark,US"}]
    assert "--at 2026-11-01T00:00:00" in host.commands[0]
    message = "error: the lake has no build of this time: the oldest is of 2026-11-02 10:00:00 UTC"
    session, _ = answering(in_lake(tmp_path), EXIT.nothing_published, stderr=message)
    with pytest.raises(InputError, match="Cannot query the marts at this time") as caught:
        query_marts(session, "select 1", at=datetime(2026, 11, 1))
    assert "the oldest is of 2026-11-02" in caught.value.details
    session, _ = answering(inventory(tmp_path, {}), 0)
    with pytest.raises(InputError, match="Cannot query earlier marts of weather: the pipeline has no lake"):
        query_marts(session, "select 1", at=datetime(2026, 11, 1))


def test_move_reports_compared_rows_and_changes_nothing_after_an_error(tmp_path: Path) -> None:
    session, host = answering(in_lake(tmp_path), 0, '{"moved": true, "tables": 20, "rows": 7}')
    assert (
        str(move(session, None, "lake")) == "weather: 20 tables with 7 rows copied to the lake and compared row by row"
    )
    assert "move_target.py --data /opt/analytics-platform/pipelines/weather/data --to lake" in host.commands[0]
    session, _ = answering(in_lake(tmp_path), 0, '{"moved": false, "tables": 0, "rows": 0}')
    assert str(move(session, "weather", "file")) == "weather: the history is in its file already"
    session, _ = answering(in_lake(tmp_path), EXIT.failed, stderr="error: warehouse.main.t has 1 other rows")
    with pytest.raises(HomelabError, match="could not be copied and compared") as caught:
        move(session, "weather", "lake")
    assert caught.value.details == "warehouse.main.t has 1 other rows"
    assert "Nothing has changed" in caught.value.resolution
