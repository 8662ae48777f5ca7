"""The lab of the end-to-end tests, the command line on it, and the machine's state before it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab.lab import LABS, Lab, missing, network, up
from homelab.paths import bundled_path
from homelab.progress import TerminalProgress
from tests.integration.lab_fixture import claimed
from tests.integration.machine_state import machine_state

LAB = LABS["e2e"]

OVERLAY = """
containers:
  postgres-data: {{vmid: 395, ip: 10.99.2.195}}
  analytics-platform: {{vmid: 396, ip: 10.99.2.196}}
  airflow-orchestration: {{vmid: 397, ip: 10.99.2.197, services: {{airflow: {{version: "{airflow}"}}}}}}
"""


@dataclass
class Cli:
    """The command line in a process of its own, on the lab of the tests."""

    folder: Path
    lab: Lab
    before: dict[str, list[str]]  # the machine's state before the lab

    def use_airflow(self, version: str) -> None:
        """Set the Airflow series in the inventory."""
        (self.folder / "overlay.yaml").write_text(OVERLAY.format(airflow=version))

    @contextmanager
    def also(self, overlay: str) -> Iterator[None]:
        """Add an overlay for the duration of the block."""
        (self.folder / "also.yaml").write_text(overlay)
        try:
            yield
        finally:
            (self.folder / "also.yaml").unlink()

    def run(self, *words: str, expect: int | None = 0, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run `homelab …` and check the exit code, unless `expect` is None."""
        command = [
            sys.executable,
            "-m",
            "homelab",
            "-i",
            str(self.folder / "inventory.yaml"),
            "--overlay",
            str(self.lab.overlay),
            "--overlay",
            str(self.folder / "overlay.yaml"),
        ]
        for more in self.folder.glob("also.yaml"):
            command += ["--overlay", str(more)]
        command += words
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, "CI": "true"}
        )
        sys.stderr.write(done.stderr)
        if expect is not None:
            assert done.returncode == expect, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str, expect: int | None = 0) -> Any:
        """Run `homelab … --json` and return its parsed output."""
        return json.loads(self.run(*words, "--json", expect=expect).stdout)

    def on(self, container: str, command: str, expect: int | None = 0) -> str:
        """Run shell text in a container and return its output."""
        return self.run("ssh", container, "--", command, expect=expect).stdout.strip()


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line on a new lab, which is removed afterwards, also after a failure."""
    if requirements := missing():
        pytest.skip("cannot run a lab: " + "; ".join(requirements))
    folder = tmp_path_factory.mktemp("e2e")
    shutil.copy(bundled_path("inventory.yaml"), folder / "inventory.yaml")
    with claimed(LAB):
        network.guard()  # remains after the lab is removed
        cli = Cli(folder, LAB, machine_state(LAB))
        cli.use_airflow("2.11")
        up(LAB, TerminalProgress())
        yield cli
