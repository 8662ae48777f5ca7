"""The tutorial about own pipelines, followed literally: from a wheel, in an empty folder, without the checkout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import pg
from tests.integration.fakenode import FakeNode, certificate, serving
from tests.integration.tutorial import Reader, add_to_inventory, blocks
from tests.scripts import ROOT

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has installed homelab, written an inventory, and created the example."""
    files, _ = certificate(tmp_path_factory.mktemp("pki"))
    node = FakeNode("secret")
    with serving(node, files):
        replacements = {"--host pve.lan": f"--host 127.0.0.1 --port {node.port}", "8123": str(pg.free_port())}
        reader = Reader(tmp_path_factory.mktemp("home"), replacements)
        reader.follow("Install homelab", typed="y\n\n\n")
    # Without it, pip would fetch uv, and the network guard refuses pip, which is a Python program.
    (reader.home / "homelab" / "bin" / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    reader.follow("Write the example")
    add_to_inventory(reader.folder / "inventory.yaml")
    yield reader
    reader.run(f"cd {reader.folder} && {reader.home}/homelab/bin/homelab dev reset --yes")


def test_homelab_is_installed_from_a_wheel(reader: Reader) -> None:
    code = "import homelab, homelab.paths as p; print(homelab.__file__, p.bundled_path('templates'))"
    found = reader.run(f"cd {reader.folder} && {reader.home}/homelab/bin/python -c {code!r}".replace("'p'", "p"))
    assert all(path.startswith(str(reader.home)) for path in found.split())
    assert str(ROOT) not in found


def test_example_is_tested_run_and_queried_on_this_machine(reader: Reader) -> None:
    output = reader.follow("Run it on your machine")
    assert "passed" in output
    assert len(re.findall(r"electricity .*2026-01-0[12]|gas .*2026-01-0[12]", output)) == 4, output


def test_prices_of_an_http_api_are_added(reader: Reader) -> None:
    manifest = reader.folder / "pipelines" / "prices" / "pipeline.yaml"
    (block,) = [each for each in blocks("Read from an HTTP API") if each.language == "yaml"]
    assert block.path == "pipelines/prices/pipeline.yaml"
    (line,) = [each for each in block.text.splitlines() if "fetch:" in each]
    changed = re.sub(r"^  fetch: .*$", line, manifest.read_text(), flags=re.MULTILINE)
    assert changed != manifest.read_text()
    manifest.write_text(changed)
    output = reader.follow("Read from an HTTP API")
    assert re.search(r"electricity .*2026-01-03 .*2 .*21\.0", output), output
