"""The export to Kubernetes without a cluster: its images, commands, variables and mounts run in a folder, on loopback.

kubectl builds the manifests and the Secrets as the printed commands do. PostgreSQL, its contents, and one run of each
pipeline start from them. Only the address and the port of the server are replaced.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from homelab.commands.pipeline_new import new_pipeline
from homelab.dev.local_postgres import unpack
from tests.integration import pg
from tests.integration.conftest import KEY, Replay
from tests.integration.kubernetes_pods import Pods, environment_of_tests, in_order
from tests.scripts import ROOT, SHARED, script

pytestmark = pytest.mark.timeout(600)


@dataclass
class Exported:
    """The pods of an export, the port of their server, and the interpreter that reads the published files."""

    pods: Pods
    port: int
    python: Path

    def run(self, pipeline: str) -> list[subprocess.CompletedProcess[str]]:
        """Run the job of a pipeline once."""
        job = self.pods.find("CronJob", f"pipeline-{pipeline}")["spec"]["jobTemplate"]
        return self.pods.run(job["spec"]["template"])

    def query(self, pipeline: str, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query of the file that a pipeline has published on its claim."""
        file = self.pods.claim(f"pipeline-{pipeline}-data") / "published.duckdb"
        words = [str(self.python), script("query.py"), "--database", str(file), sql]
        rows: list[dict[str, Any]] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        return rows


def inventory(folder: Path, replay: Replay) -> Path:
    """Write an inventory with the replayed weather and a pipeline of its own; return the path."""
    shutil.copy(ROOT / "inventory.yaml", folder)
    new_pipeline(folder, "prices")
    state = folder / ".homelab"
    state.mkdir(mode=0o700)
    key = state / "openweather-api-key"
    key.touch(mode=0o600)
    key.write_text(f"{KEY}\n")
    path = folder / "inventory.yaml"
    settings = f"pipelines:\n  prices: {{path: pipelines/prices}}\n  weather:\n    api_url: {replay.url}\n"
    path.write_text(path.read_text().replace("pipelines:\n  weather:\n", settings, 1))
    return path


@pytest.fixture
def exported(tmp_path: Path, replay: Replay, analytics_python: Path) -> Iterator[Exported]:
    """An export whose server runs, with the contents of its databases."""
    archive = pg.archive()
    if archive is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    # A short path, as it has PostgreSQL's socket; PostgreSQL's user can pass through it.
    root = Path(tempfile.mkdtemp(prefix="homelab-k8s-"))
    try:
        root.chmod(0o755)
        lab = root / "lab"
        lab.mkdir()
        manifests = written(inventory(lab, replay))
        port, home = pg.free_port(), unpack(archive, root)
        loopback = {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(port)}
        pods = Pods(root, analytics_python.parents[1], manifests, f"{home / 'bin'}:/usr/bin:/bin", loopback)
        for image in sorted((lab / "k8s" / "images").iterdir()):
            lock = (image / "locks" / "analytics.txt").read_bytes()
            assert lock == (SHARED / "requirements" / "analytics.txt").read_bytes()  # that of `analytics_python`
            pods.build(image)
        server = pods.find("StatefulSet", "postgres-data")["spec"]["template"]
        with pods.serving(server, tmp_path / "log", "-c", "listen_addresses=127.0.0.1"):
            yield Exported(pods, port, analytics_python)
    finally:
        shutil.rmtree(root)


def written(path: Path) -> list[dict[str, Any]]:
    """Export the inventory, and return the objects that kubectl would send to a cluster."""
    folder, environment = path.parent, environment_of_tests()

    def output(command: str) -> str:
        return subprocess.run(
            ["/bin/sh", "-c", command], check=True, cwd=folder, env=environment, capture_output=True, text=True
        ).stdout

    commands = json.loads(output("homelab export kubernetes k8s --json"))["commands"]
    secrets = [each for each in commands if "create secret" in each]
    assert len(secrets) == 2
    texts = [output("kubectl kustomize k8s"), *(output(f"{each} --dry-run=client -o yaml") for each in secrets)]
    return [each for text in texts for each in yaml.safe_load_all(text)]


def test_one_run_of_each_pipeline(exported: Exported) -> None:
    setup = exported.pods.find("Job", "database-setup")["spec"]["template"]
    for _ in range(2):  # each part can run again
        done = exported.pods.run(setup)
        assert in_order(done) == [0, 0], [each.stderr for each in done]

    files = exported.pods.image_files()
    done = exported.run("weather")
    assert in_order(done) == [0, 0, 0], [each.stdout + each.stderr for each in done]
    assert not any(KEY in each.stdout + each.stderr for each in done)
    assert json.loads(done[0].stdout.splitlines()[-1])["stored"] == 3
    assert exported.query("weather", "select count(*) as rows from stg_weather") == [{"rows": 3}]

    done = exported.run("prices")
    assert in_order(done) == [0, 0], [each.stdout + each.stderr for each in done]
    assert exported.query("prices", "select count(*) > 0 as has_rows from prices_daily") == [{"has_rows": True}]

    assert exported.pods.image_files() == files  # the file systems of the containers are read-only

    # Only over TLS, and only with the certificate of the lab's CA for this name.
    (build,) = (each for each in setup["spec"]["containers"] if each["name"] == "pipeline-prices-tables")
    name = {"PGHOST": "localhost"}
    wrong_name = exported.pods.start(setup, build | {"command": ["psql", "-c", "select 1"]}, **name)
    assert "does not match host name" in wrong_name.stderr
    with pytest.raises(psycopg.OperationalError, match=r"rejects connection|no encryption"):
        psycopg.connect(f"host=127.0.0.1 port={exported.port} user=dbt dbname=project_data sslmode=disable password=x")
