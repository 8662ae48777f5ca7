"""Obstacles in the user's folder, a full disk and an early Ctrl-C: one error, its exit code, and nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.commands.ci_init import Workflow, write_workflow
from homelab.commands.pipeline_copy import copy_pipeline
from homelab.commands.pipeline_new import new_pipeline
from homelab.commands.service_new import new_service
from homelab.errors import InputError
from homelab.local_files import write_new
from homelab.paths import bundled_path
from tests.support import respecting_modes
from tests.unit.test_pipelines import inventory

HOMELAB = [sys.executable, "-m", "homelab"]


def a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def a_dangling_link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.parent / "missing")


def read_only(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o500)


def ci_init(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    wanted = replace(inventory(folder), path=folder / "inventory.yaml")
    write_workflow(wanted, Workflow("github", "main", Path("/srv/lab")))


@pytest.mark.parametrize(
    ("part", "write", "brief"),
    [
        ("pipelines", lambda folder: new_pipeline(folder, "prices"), "Cannot create pipeline prices: "),
        ("pipelines/prices", lambda folder: new_pipeline(folder, "prices"), "Cannot create pipeline prices: "),
        ("pipelines", lambda folder: copy_pipeline(folder, "weather"), "Cannot copy the pipeline weather: "),
        ("services", lambda folder: new_service(folder, "share"), "Cannot create service share: "),
        ("tests", lambda folder: new_service(folder, "share"), "Cannot create service share: "),
        (".github/workflows", ci_init, "Cannot write "),
    ],
)
@pytest.mark.parametrize("obstacle", [a_file, a_dangling_link, read_only])
def test_obstacle_in_the_folder_is_named(
    tmp_path: Path, part: str, write: Callable[[Path], object], brief: str, obstacle: Callable[[Path], None]
) -> None:
    obstacle(tmp_path / part)
    with respecting_modes(), pytest.raises(InputError) as caught:
        write(tmp_path)
    assert caught.value.brief.startswith(brief)
    assert part in str(caught.value)
    new = {path.name for path in tmp_path.rglob("*")} - {".git", "inventory.yaml", "key", "overlay.yaml"}
    assert new == set(Path(part).parts)


def test_new_files_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError, match="Cannot write: File exists"):
        write_new({tmp_path / "a" / "x": b"", tmp_path / "b": b""}, "write")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "mine"}
    write_new({tmp_path / "a" / "x": b"1", tmp_path / "a" / "y": b"2"}, "write")
    assert [path.read_text() for path in sorted((tmp_path / "a").iterdir())] == ["1", "2"]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", script, "sh", *HOMELAB]
    environment = {**os.environ, "PYTHONPATH": str(bundled_path("homelab").parent)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ('"$@" --version >/dev/full', 1, "Error: Cannot continue: No space left on device"),
        ('"$@" services >/dev/full', 1, "Error: Cannot continue: No space left on device"),
        ('mkdir a; cd a; rmdir ../a; "$@" plan', 2, "Error: Cannot continue: the current folder was deleted"),
        ('mkdir a; cd a; rmdir ../a; "$@" pipeline new x', 2, "Error: Cannot continue: the current folder was deleted"),
    ],
)
def test_stray_obstacle_is_one_error(tmp_path: Path, script: str, status: int, error: str) -> None:
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (status, error), done.stderr
    assert "Traceback" not in done.stderr
    assert "Internal error" not in done.stderr
    if "--version" in script:  # ends before the other options are read
        return
    shown = run(script.replace('"$@"', '"$@" --verbose'), tmp_path)
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize(
    "moment",
    [
        "import homelab.cli.provision",  # while the modules are imported
        "typer.main.get_command",  # while the commands are built
    ],
)
def test_early_ctrl_c_ends_without_a_traceback(moment: str) -> None:
    interrupt = f"os.kill(os.getpid(), {int(signal.SIGINT)})"
    importing = moment.startswith("import")
    program = f"""
import os, sys
from homelab.__main__ import main
sys.argv = ["homelab", "--help"]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "homelab.cli.provision":
            {interrupt}
if {importing}:
    sys.meta_path.insert(0, Finder())
else:
    import typer
    def get_command(app):
        {interrupt}
    typer.main.get_command = get_command
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
