"""pyinfra: homelab's steps as its operations. The list is data, which `pyinfra_deploy.py` goes through.

`apt.packages`, `server.user`, `files.directory`, `files.put`, `files.sync` and `systemd.service` where there is such an
operation; else one that asks by a fact whether it has to act, as pyinfra's own do.
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
from benchmarks.peers.shell_steps import asked
from benchmarks.process import ran
from homelab.model import Step
from homelab.steps import Command, Directory, DpkgConfigured, File, Packages, PgHba, Settings, SystemdUnit, Tree, User

Operation = dict[str, Any]
_END = "homelab-end-of-input"


class Deploy:
    """Everything that pyinfra needs, in a folder of its own."""

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
                each for number, step in enumerate(steps) for each in told(step, folder / "files" / name / str(number))
            ]
            for name, (_, steps) in hosts.items()
        }
        (folder / "steps.json").write_text(json.dumps(operations))

    def run(self) -> Run:
        """Run it, each host at its own pace. Raises SystemExit, quoting it, when it fails."""
        run = ran(
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
        # Operations, those with a change, errors, those without a change; `-` is none.
        total = re.search(r"Grand total[\s|]+[\d-]+[\s|]+([\d-]+)", run.said)
        if total is None:
            raise SystemExit(f"pyinfra says nothing of what it changed:\n{run.said}")
        return Run(run.seconds, int(total[1].replace("-", "0")))


def _operation(step: Step, name: str, only_after: bool = False, **arguments: Any) -> Operation:
    return {
        "title": step.title,
        "operation": name,
        "arguments": arguments,
        "only_after": only_after,
        "watches": [each.title for each in step.triggered_by if not step.is_wait],
    }


def _stored(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@singledispatch
def told(step: Step, place: Path) -> list[Operation]:
    """The step as operations; what it needs is put at `place`."""
    question = asked(step)
    given = f"<<'{_END}'\n{question.stdin}\n{_END}\n" if question.stdin else ""
    make = f"( {question.make}\n) {given}"
    if isinstance(step, Command) and step.done == "true":
        return [_operation(step, "shell", only_after=True, commands=make)]
    return [_operation(step, "ensured", met=question.met, make=make)]


@told.register
def _packages(step: Packages, place: Path) -> list[Operation]:
    return [_operation(step, "packages", packages=list(step.names), no_recommends=True, update=True, cache_time=86400)]


@told.register
def _finished(step: DpkgConfigured, place: Path) -> list[Operation]:
    return []  # homelab also asks whether dpkg was cut off; a peer gets away without


@told.register
def _user(step: User, place: Path) -> list[Operation]:
    return [
        _operation(
            step,
            "user",
            user=step.name,
            home=step.home,
            shell=step.shell,
            system=True,
            create_home=True,
            ensure_home=False,
        )
    ]


@told.register
def _directory(step: Directory, place: Path) -> list[Operation]:
    return [_operation(step, "directory", path=step.path, user=step.owner, group=step.group, mode=f"{step.mode:o}")]


@told.register
def _file(step: File, place: Path) -> list[Operation]:
    return [
        _operation(
            step,
            "put",
            src=_stored(place, step.content),
            dest=step.path,
            user=step.owner,
            group=step.group,
            mode=f"{step.mode:o}",
        )
    ]


@told.register
def _settings(step: Settings, place: Path) -> list[Operation]:
    restart = _operation(step, "service", only_after=True, service=step.server.unit, restarted=True)
    return _then(_file(step, place), step, {**restart, "title": "restart PostgreSQL"})


@told.register
def _hba(step: PgHba, place: Path) -> list[Operation]:
    reload = _operation(step, "shell", only_after=True, commands=f"{step.psql} -c 'select pg_reload_conf()'")
    return _then(_file(step, place), step, {**reload, "title": "load pg_hba.conf"})


def _then(first: list[Operation], step: Step, after: Operation) -> list[Operation]:
    return [*first, {**after, "watches": [step.title]}]


@told.register
def _tree(step: Tree, place: Path) -> list[Operation]:
    for name, content in step.files.items():
        _stored(place / name, content)
    return [_operation(step, "sync", src=str(place), dest=step.path, user="root", group="root", delete=True)]


@told.register
def _running(step: SystemdUnit, place: Path) -> list[Operation]:
    begin = {**_operation(step, "service", service=step.unit, running=True, enabled=True), "watches": []}
    again = _operation(step, "service", only_after=True, service=step.unit, restarted=True, daemon_reload=True)
    return [begin, {**again, "title": f"{step.title} again"}]
