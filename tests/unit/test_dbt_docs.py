"""The dbt docs as web pages: on the start page of the gateway, each from its pipeline's own user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from homelab.commands.pipeline_new import new_pipeline
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.runtime.convergence import steps_of
from homelab.services.dbt_docs import DOCS_FOLDER, DOCS_UNIT
from homelab.steps import Directory, File, Tree
from tests.support import FixedSecretStore


def inventory(folder: Path, docs: str = "true") -> Inventory:
    new_pipeline(folder, "prices")
    key = folder / "openweather-key"
    key.write_text("x")
    key.chmod(0o600)
    overlay = folder / "overlay.yaml"
    overlay.write_text(f"""
pipelines: {{prices: {{path: pipelines/prices}}, weather: {{api_key_file: {key}}}}}
containers:
  analytics-platform: {{services: {{analytics: {{docs: {docs}}}}}}}
  door: {{vmid: 171, ip: .71, cores: 1, memory: 256, services: {{gateway: {{}}}}}}
""")
    (folder / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    return load([folder / "inventory.yaml", overlay])


def steps(found: Inventory, service: str) -> list[Step]:
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    container = found.container_with(service)
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys=keys)
    return list(steps_of(context))


def content(found: list[Step], path: str) -> str:
    (file,) = [step for step in found if isinstance(step, File) and step.path == path]
    return file.content.decode()


def test_start_page_links_the_docs_of_each_pipeline(tmp_path: Path) -> None:
    (tree,) = [each for each in steps(inventory(tmp_path), "gateway") if isinstance(each, Tree)]
    page = tree.files["index.html"].decode()
    for name in ("weather", "prices"):
        assert f'<a class="card" href="https://192.168.2.71:18095/{name}/">' in page
        assert f"<h2>dbt docs: {name}</h2>" in page
    assert page.count('data-health="/health/analytics-platform/8095"') == 2


def test_each_pipeline_writes_its_own_page_only(tmp_path: Path) -> None:
    found = steps(inventory(tmp_path), "analytics")
    for name in ("weather", "prices"):
        unit = content(found, f"/etc/systemd/system/homelab-dbt-docs-{name}.service")
        assert f"User=pipeline-{name}" in unit
        data = f"/opt/analytics-platform/pipelines/{name}/data"
        assert f"ReadWritePaths={data} {DOCS_FOLDER}/{name}\n" in unit
        (folder,) = [each for each in found if isinstance(each, Directory) and each.path == f"{DOCS_FOLDER}/{name}"]
        assert folder.owner == f"pipeline-{name}"
        path = content(found, f"/etc/systemd/system/homelab-dbt-docs-{name}.path")
        assert f"PathChanged={data}/last_build.json" in path
    assert "User=homelab-dbt-docs\n" in content(found, f"/etc/systemd/system/{DOCS_UNIT}")


def test_without_the_option_there_are_no_docs(tmp_path: Path) -> None:
    found = inventory(tmp_path, "false")
    assert not [step.title for step in steps(found, "analytics") if "docs" in step.title]
    assert "dbt docs" not in content(steps(found, "gateway"), "/etc/homelab/gateway/caddy.json")


@pytest.fixture
def publish(tmp_path: Path) -> Path:
    """The program that publishes a page, with `dbt` replaced by a copy of a file."""
    script = content(steps(inventory(tmp_path), "analytics"), "/opt/analytics-platform/pipelines/weather/publish-docs")
    line = next(each for each in script.splitlines() if "dbt_docs.py" in each)
    program = tmp_path / "publish"
    page = f"{DOCS_FOLDER}/weather/index.html"
    program.write_text(
        script.replace(line, f"cd {tmp_path}; test ! -e broken; cp source docs.html").replace(
            page, str(tmp_path / "index.html")
        )
    )
    return program


def test_page_is_replaced_only_if_it_has_changed(publish: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    (tmp_path / "source").write_text("one")
    subprocess.run(["sh", str(publish)], check=True)
    assert (page.read_text(), page.stat().st_mode & 0o777) == ("one", 0o644)
    os.utime(page, (5, 5))
    subprocess.run(["sh", str(publish)], check=True)
    assert page.stat().st_mtime == 5
    (tmp_path / "source").write_text("two")
    subprocess.run(["sh", str(publish)], check=True)
    assert page.read_text() == "two"


def test_page_stays_if_dbt_cannot_generate_it(publish: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("one")
    subprocess.run(["sh", str(publish)], check=True)
    (tmp_path / "broken").touch()
    (tmp_path / "source").write_text("two")
    assert subprocess.run(["sh", str(publish)], check=False).returncode == 1
    assert (tmp_path / "index.html").read_text() == "one"


def test_server_has_the_pages_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pages" / "weather").mkdir(parents=True)
    (tmp_path / "pages" / "weather" / "index.html").write_text("the page")
    (tmp_path / "private").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = bundled_path("templates/dbt_docs/serve.py")
    words = [sys.executable, "-I", "-B", str(program), "127.0.0.1", str(port), str(tmp_path / "pages")]
    server = subprocess.Popen(words, stderr=subprocess.PIPE)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        until = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        with opener.open(f"http://127.0.0.1:{port}/weather/", timeout=10) as answer:
            assert answer.read() == b"the page"
            assert answer.headers["Cache-Control"] == "no-cache"
        for path in ("/../private", "/%2e%2e/private", "/weather/..%2f..%2fprivate"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                opener.open(f"http://127.0.0.1:{port}{path}", timeout=10)
    finally:
        server.terminate()
        _, log = server.communicate(timeout=20)
    assert log == b""
