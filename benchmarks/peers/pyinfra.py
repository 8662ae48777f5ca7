"""The peer pyinfra: homelab's steps as operations, in a list that `pyinfra_deploy.py` reads.

It uses `apt.packages`, `server.user`, `files.directory`, `files.put`, `files.sync` and `systemd.service`, and for other
steps its own operation with a fact as its check, as pyinfra's operations have.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

from benchmarks.ansible import VENV
from benchmarks.peers.playbook import Run
from benchmarks.peers.shell_steps import shell_step
from benchmarks.process import run_program
from homelab.model import Step
from homelab.steps import Command, Directory, DpkgConfigured, File, Packages, PgHba, Settings, SystemdUnit, Tree, User

Operation = dict[str, Any]
_END = "homelab-end-of-input"


class Deploy:
    """A folder with everything that pyinfra needs."""

    def __init__(self, folder: Path, hosts: Mapping[str, tuple[str, Sequence[Step]]], key: Path, pins: str) -> None:
        """See Playbook."""
        self._folder = folder
        (folder / "known_hosts").write_text(pins)
        common = {
            "ssh_user": "root",
            "ssh_key": str(key),
            "ssh_known_hosts_file": str(folder / "known_hosts"),
            "ssh_strict_host_key_checking": "yes",
        }
        machines = [(name, {"ssh_hostname": address, **common}) for name, (address, _) in hosts.items()]
        (folder / "inventory.py").write_text(f"machines = {machines!r}\n")
        shutil.copy(Path(__file__).with_name("pyinfra_deploy.py"), folder / "deploy.py")
        operations = {
            name: [
                each
                for number, step in enumerate(steps)
                for each in operations_of(step, folder / "files" / name / str(number))
            ]
            for name, (_, steps) in hosts.items()
        }
        (folder / "steps.json").write_text(json.dumps(operations))

    def run(self) -> Run:
        """Run the deploy, each host at its own pace. Raises SystemExit with the output if it fails."""
        run = run_program(
            [
                "sh",
                "-c",
                'exec "$0" "$@" 2>&1',
                str(VENV / "bin" / "pyinfra"),
                "-y",
                "--no-wait",
                "inventory.py",
                "deploy.py",
            ],
            self._folder,
        )
        # The columns: operations, changed, errors, unchanged; `-` is zero.
        total = re.search(r"Grand total[\s|]+[\d-]+[\s|]+([\d-]+)", run.output)
        if total is None:
            raise SystemExit(f"Cannot read the number of changes from pyinfra's output:\n{run.output}")
        return Run(run.seconds, int(total[1].replace("-", "0")))


def _operation(step: Step, name: str, only_after: bool = False, **arguments: Any) -> Operation:
    return {
        "title": step.title,
        "operation": name,
        "arguments": arguments,
        "only_after": only_after,
        "triggered_by": [each.title for each in step.triggered_by if not step.is_wait],
    }


def _stored(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@singledispatch
def operations_of(step: Step, path: Path) -> list[Operation]:
    """Return the operations of a step; write its files to `path`."""
    shell = shell_step(step)
    stdin = f"<<'{_END}'\n{shell.stdin}\n{_END}\n" if shell.stdin else ""
    apply = f"( {shell.apply}\n) {stdin}"
    if isinstance(step, Command) and step.done == "true":
        return [_operation(step, "shell", only_after=True, commands=apply)]
    return [_operation(step, "checked", check=shell.check, apply=apply)]


@operations_of.register
def _packages(step: Packages, path: Path) -> list[Operation]:
    return [_operation(step, "packages", packages=list(step.names), no_recommends=True, update=True, cache_time=86400)]


@operations_of.register
def _finished(step: DpkgConfigured, path: Path) -> list[Operation]:
    return []  # only homelab checks for an interrupted dpkg


@operations_of.register
def _user(step: User, path: Path) -> list[Operation]:
    return [
        _operation(
            step,
            "user",
            user=step.name,
            home=step.home,
            shell=step.shell,
            system=True,
            create_home=False,
            ensure_home=False,
        )
    ]


@operations_of.register
def _directory(step: Directory, path: Path) -> list[Operation]:
    return [_operation(step, "directory", path=step.path, user=step.owner, group=step.group, mode=f"{step.mode:o}")]


@operations_of.register
def _file(step: File, path: Path) -> list[Operation]:
    return [
        _operation(
            step,
            "put",
            src=_stored(path, step.content),
            dest=step.path,
            user=step.owner,
            group=step.group,
            mode=f"{step.mode:o}",
        )
    ]


@operations_of.register
def _settings(step: Settings, path: Path) -> list[Operation]:
    restart = _operation(step, "service", only_after=True, service=step.server.unit, restarted=True)
    return _then(_file(step, path), step, {**restart, "title": "restart PostgreSQL"})


@operations_of.register
def _hba(step: PgHba, path: Path) -> list[Operation]:
    reload = _operation(step, "shell", only_after=True, commands=f"{step.psql} -c 'select pg_reload_conf()'")
    return _then(_file(step, path), step, {**reload, "title": "load pg_hba.conf"})


def _then(first: list[Operation], step: Step, after: Operation) -> list[Operation]:
    return [*first, {**after, "triggered_by": [step.title]}]


@operations_of.register
def _tree(step: Tree, path: Path) -> list[Operation]:
    for name, content in step.files.items():
        _stored(path / name, content)
    return [_operation(step, "sync", src=str(path), dest=step.path, user="root", group="root", delete=True)]


@operations_of.register
def _running(step: SystemdUnit, path: Path) -> list[Operation]:
    start = {**_operation(step, "service", service=step.unit, running=True, enabled=True), "triggered_by": []}
    restart = _operation(step, "service", only_after=True, service=step.unit, restarted=True, daemon_reload=True)
    return [start, {**restart, "title": f"restart {step.title}"}]
