"""Root writes nowhere where a service can write: over all steps of all services, on each distribution."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.model import ServiceContext, Step
from homelab.pipelines.layout import SHARED_SCRIPTS
from homelab.runtime.convergence import steps_of
from homelab.sandbox import Sandbox
from homelab.services.airflow_metadata import CLI
from homelab.steps import Directory, File, User
from tests.support import FixedSecretStore
from tests.unit.test_services import KEYS, POSTGRES, inventory

WRITABLE = re.compile(r"ReadWritePaths=([/\w. -]*\w)")
SANDBOXES = "/usr/local/sbin/homelab-as-"


def all_steps(tmp_path: Path) -> Iterator[tuple[str, list[Step]]]:
    """Yield the steps of each container: for each distribution, and both series of Airflow."""
    for template in POSTGRES:
        for airflow in ("3.3", "2.11") if template != "debian-13" else ("3.3",):
            wanted = inventory(tmp_path, template, airflow)
            for container in wanted.containers:
                context = ServiceContext(
                    inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS
                )
                yield f"{container.name} {template} {airflow}", list(steps_of(context))


def writable(steps: list[Step]) -> set[str]:
    """Return the folders that the services of a container can write, from their units and sandboxes."""
    text = "".join(step.content.decode(errors="replace") for step in steps if isinstance(step, File))
    return {folder for found in WRITABLE.findall(text) for folder in found.split()}


def inside(path: str, folders: set[str]) -> list[str]:
    return [folder for folder in folders if path.startswith(f"{folder}/")]


def test_no_step_writes_below_a_folder_of_a_service(tmp_path: Path) -> None:
    for where, steps in all_steps(tmp_path):
        folders = writable(steps)
        assert folders, where
        for step in steps:
            paths = [getattr(step, "path", ""), *(each.name for each in step.managed_resources())]
            assert [path for path in paths if inside(path, folders)] == [], f"{where}: {step.title}"


def test_only_data_folders_belong_to_a_service(tmp_path: Path) -> None:
    for where, steps in all_steps(tmp_path):
        folders = writable(steps)
        for step in steps:
            if isinstance(step, File):
                assert (step.owner, step.mode & 0o022) == ("root", 0), f"{where}: {step.title}"
            if isinstance(step, Directory):
                assert (step.owner == "root" and not step.mode & 0o022) == (step.path not in folders), step.title
        for user in (step for step in steps if isinstance(step, User)):
            (home,) = [step for step in steps if isinstance(step, Directory) and step.path == user.home]
            assert (home.owner, home.mode) == ("root", 0o755), where


def test_each_folder_on_the_way_is_given_to_root_before_it_is_used(tmp_path: Path) -> None:
    """Packages give these folders to a service's user, so a step takes them back."""
    for where, steps in all_steps(tmp_path):
        given = [step.path for step in steps if isinstance(step, Directory)]
        for step in (step for step in steps if isinstance(step, File)):
            way = [step.path[: found.start()] for found in re.finditer("/", step.path)][1:]
            for folder in way:
                if re.match("/etc/postgresql(/|$)|/home/|/opt/", folder):
                    assert folder in given, f"{where}: {step.title} needs a step for {folder}"


def scripts_of(step: Step) -> Iterator[str]:
    """Yield the shell texts of a step that can run a service's code."""
    yield from step.probes()
    yield from (getattr(step, name, "") for name in ("command", "probe", "validate"))


def test_code_of_a_service_runs_in_its_sandbox_only(tmp_path: Path) -> None:
    program = re.compile(r"/opt/[\w-]+/venv/bin/\w+ |/bin/postgres |/bin/airflow |homelab-airflow ")
    install = f"{SHARED_SCRIPTS}/install_extension.py"  # root's own files only, and no file of the service
    for where, steps in all_steps(tmp_path):
        for step in steps:
            for text in scripts_of(step):
                assert not re.search(r"runuser|\bsu\b|setpriv", text) or "psql" in text, f"{where}: {step.title}"
                if program.search(text) and install not in text:
                    assert SANDBOXES in text or "homelab-airflow " in text, f"{where}: {step.title}"


def test_each_service_and_pipeline_has_a_sandbox(tmp_path: Path) -> None:
    files = {step.path for _, steps in all_steps(tmp_path) for step in steps if isinstance(step, File)}
    sandboxes = {path.removeprefix(SANDBOXES) for path in files if path.startswith(SANDBOXES)}
    assert sandboxes == {"postgres", "airflow", "pipeline-weather"}


def test_airflows_command_line_runs_in_the_sandbox(tmp_path: Path) -> None:
    (text,) = {
        step.content.decode()
        for _, steps in all_steps(tmp_path)
        for step in steps
        if isinstance(step, File) and step.path == CLI
    }
    assert text.splitlines()[-1] == f'exec {SANDBOXES}airflow /opt/airflow/venv/bin/airflow "$@"'


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_limits_are_rated_3_0_or_less(tmp_path: Path) -> None:
    unit = tmp_path / "limited.service"
    lines = Sandbox("daemon", ["/var/lib/x"]).lines
    unit.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *lines, ""]))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


FAKE = """#!/bin/sh
while [ "$1" != -- ]; do shift; done; shift
for word in "$@"; do printf '%s\\n' "$word"; done
cat; exit 4
"""


def test_sandbox_passes_words_input_and_status(tmp_path: Path) -> None:
    """systemd expands variables in a command's words, but not `$$`."""
    (tmp_path / "systemd-run").write_text(FAKE)
    (tmp_path / "systemd-run").chmod(0o755)
    script = Sandbox("u", ["/d"], passed=["PASSED"]).file().content.decode()
    words = ["/bin/sh", "-c", 'echo "$A" ${B}; $(c) $', "", "it's a *", "$"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", script, "homelab-as-u", *words],
        input="in\nput",
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stdout == "".join(f"{word.replace('$', '$$')}\n" for word in words) + "in\nput", done.stderr
    assert done.returncode == 4
