"""Shell completion through the shell's own protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from homelab.paths import bundled_path
from homelab.secrets import FileSecretStore


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(bundled_path("inventory.yaml").read_text())
    secrets = FileSecretStore(tmp_path / ".homelab" / "home")
    secrets.secret("airflow-admin")
    secrets.secret("postgres-dbt")
    return path


def complete(folder: Path, line: str) -> list[str]:
    """The candidates that bash would get for the last word of a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_HOMELAB_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = "import sys; sys.argv = ['homelab']\nfrom homelab.cli import app\napp(prog_name='homelab')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("homelab ssh p", ["postgres-data"]),
        ("homelab up --limit a", ["analytics-platform", "airflow-orchestration"]),
        ("homelab logs airflow-orchestration airflow-s", ["airflow-scheduler"]),
        ("homelab logs postgres-data ", ["postgres", "postgresql@16-main"]),
        ("homelab secret show ", ["airflow-admin", "postgres-dbt"]),
        ("homelab secret show x", []),
        ("homelab demo --with m", ["monitoring"]),
        ("homelab demo --with monitoring,a", ["monitoring,alerts"]),
    ],
)
def test_names_of_the_inventory_are_completed(inventory: Path, line: str, expected: list[str]) -> None:
    assert complete(inventory.parent, line) == expected


@pytest.mark.parametrize("place", ["homelab -i other.yaml ssh p", "homelab ssh -i other.yaml p"])
def test_completion_uses_the_inventory_of_the_command_line(inventory: Path, place: str) -> None:
    inventory.rename(inventory.with_name("other.yaml"))
    assert complete(inventory.parent, place) == ["postgres-data"]
    assert complete(inventory.parent, "homelab ssh p") == []


def test_broken_inventory_completes_to_nothing(inventory: Path) -> None:
    inventory.write_text("containers: [")
    assert complete(inventory.parent, "homelab ssh p") == []


def test_snapshots_without_an_answer_complete_to_nothing(inventory: Path) -> None:
    assert complete(inventory.parent, "homelab snapshot rollback b") == []
