"""Ansible: homelab's steps as one playbook with a list of tasks for each host.

`copy`, `file`, `unarchive`, `apt`, `user` and `systemd_service` where there is such a module; else `shell` with a check
of its own, which says itself whether it has changed anything. A tree of files is one archive, as one task for each
file would take a second of each run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from shlex import quote
from typing import Any

from benchmarks.ansible import VENV, changes
from benchmarks.peers.shell_steps import Recorder, asked
from benchmarks.process import ran
from homelab.model import Step
from homelab.steps import Command, Directory, DpkgConfigured, File, Packages, PgHba, Settings, SystemdUnit, Tree, User

_CHANGED = "homelab-changed"
_OWN = "[defaults]\nhome = {home}\n"
_FAST = _OWN + "forks = 30\ngathering = explicit\ninterpreter_python = /usr/bin/python3\n"
# The hosts' lists are not the same, and `linear` would do one host's tasks after the other's.
CONFIGURATIONS = {
    "Ansible": _OWN,
    "Ansible, pipelining": _FAST + "strategy = free\n[connection]\npipelining = true\n",
    "Ansible + mitogen": _FAST + "strategy = mitogen_free\nstrategy_plugins = {mitogen}\n",
}

Task = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run to its end: seconds, and how many tasks said `changed`."""

    seconds: float
    changed: int


class Playbook:
    """Everything that Ansible needs, in a folder of its own."""

    def __init__(self, folder: Path, hosts: Mapping[str, tuple[str, Sequence[Step]]], key: Path, pins: str) -> None:
        """`hosts`: each one's address and steps; `key`: who logs in; `pins`: what a known_hosts file says of them."""
        self._folder = folder
        (folder / "known_hosts").write_text(pins)
        common = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={folder}/known_hosts -o GlobalKnownHostsFile=none "
            "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
        }
        names = {name: {"ansible_host": address} for name, (address, _) in hosts.items()}
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": names, "vars": common}}))
        (folder / "play.yml").write_text(
            json.dumps([{"hosts": "all", "tasks": [{"ansible.builtin.include_tasks": "{{ inventory_hostname }}.yml"}]}])
        )
        # A new container may have no Python yet; only then does Ansible have to bring one.
        bring = "test -e /usr/bin/python3 || (apt-get update -qq && apt-get install -qq -y python3)"
        (folder / "cold.yml").write_text(
            json.dumps([{"hosts": "all", "tasks": [{"ansible.builtin.raw": bring, "changed_when": False}]}])
        )
        for name, (_, steps) in hosts.items():
            tasks = Tasks(folder / "files" / name, steps).all()
            (folder / f"{name}.yml").write_text(json.dumps(tasks, indent=1))

    def run(self, configuration: str, cold: bool = False, limit: str = "all") -> Run:
        """Run it with these settings, in new containers if `cold`, or in one. Raises SystemExit."""
        home = self._folder / "home"
        (mitogen,) = VENV.glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy")
        (self._folder / "ansible.cfg").write_text(CONFIGURATIONS[configuration].format(home=home, mitogen=mitogen))
        try:
            run = ran(
                [
                    str(VENV / "bin" / "ansible-playbook"),
                    "-i",
                    "hosts.json",
                    "--limit",
                    limit,
                    *(["cold.yml"] if cold else []),
                    "play.yml",
                ],
                self._folder,
            )
        finally:
            self.hang_up()
        return Run(run.seconds, changes(run.said))

    def hang_up(self) -> None:
        """End the connections that Ansible keeps open for a minute, so that each run begins with none."""
        for socket in (self._folder / "home" / "cp").glob("*"):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "none"], check=False, capture_output=True
            )


class Tasks:
    """The tasks of one host, in the order of its steps."""

    def __init__(self, files: Path, steps: Sequence[Step]) -> None:
        self._files, self._steps = files, steps
        files.mkdir(parents=True)
        self._numbers = {step.title: number for number, step in enumerate(steps)}

    def all(self) -> list[Task]:
        """The tasks."""
        return [task for step in self._steps for task in said(step, self)]

    def task(self, step: Step, module: str, arguments: Task, **more: Any) -> Task:
        """A task whose outcome is remembered for those that watch the step."""
        return {"name": step.title, f"ansible.builtin.{module}": arguments, "register": self.outcome(step), **more}

    def outcome(self, step: Step) -> str:
        """The name of the variable in which a step's outcome is."""
        return f"step_{self._numbers[step.title]}"

    def stored(self, step: Step, content: bytes) -> str:
        """A local file of that content."""
        path = self._files / str(self._numbers[step.title])
        path.write_bytes(content)
        return str(path)

    def cause(self, step: Step) -> str:
        """A condition: whether anything has changed that the step watches."""
        return " or ".join(f"{self.outcome(each)} is changed" for each in step.triggered_by) or "false"


@singledispatch
def said(step: Step, tasks: Tasks) -> list[Task]:
    """The step as tasks; as shell text where Ansible has no module for it."""
    question = asked(step)
    if step.is_wait:
        return [
            tasks.task(
                step,
                "shell",
                {"cmd": _raw(question.met)},
                until=f"{tasks.outcome(step)} is success",
                retries=300,
                delay=1,
                changed_when=False,
            )
        ]
    make = f"( {question.make}\n) && echo {_CHANGED}"
    given: Task = {"stdin": _raw(question.stdin), "stdin_add_newline": False} if question.stdin else {}
    if isinstance(step, Command) and step.done == "true":
        return [tasks.task(step, "shell", {"cmd": _raw(make), **given}, when=tasks.cause(step))]
    looks = f"{{{{ 'false' if {tasks.cause(step)} else 'true' }}}}"
    read = " && cat >/dev/null" if given else ""  # what nobody reads is an error to Ansible
    cmd = f"{looks}{_raw(f' && {question.met}{read} || {{ {make}; }}')}"
    return [
        tasks.task(step, "shell", {"cmd": cmd, **given}, changed_when=f"'{_CHANGED}' in {tasks.outcome(step)}.stdout")
    ]


def _raw(text: str) -> str:
    """Text in which Ansible replaces nothing."""
    return f"{{% raw %}}{text}{{% endraw %}}"


@said.register
def _packages(step: Packages, tasks: Tasks) -> list[Task]:
    return [
        tasks.task(
            step,
            "apt",
            {"name": list(step.names), "install_recommends": False, "update_cache": True, "cache_valid_time": 86400},
        )
    ]


@said.register
def _finished(step: DpkgConfigured, tasks: Tasks) -> list[Task]:
    return []  # homelab also asks whether dpkg was cut off; a peer gets away without


@said.register
def _user(step: User, tasks: Tasks) -> list[Task]:
    return [tasks.task(step, "user", {"name": step.name, "home": step.home, "shell": step.shell, "system": True})]


@said.register
def _directory(step: Directory, tasks: Tasks) -> list[Task]:
    return [
        tasks.task(
            step,
            "file",
            {
                "path": step.path,
                "state": "directory",
                "owner": step.owner,
                "group": step.group,
                "mode": f"0{step.mode:o}",
            },
        )
    ]


@said.register
def _file(step: File, tasks: Tasks) -> list[Task]:
    arguments = {
        "src": tasks.stored(step, step.content),
        "dest": step.path,
        "owner": step.owner,
        "group": step.group,
        "mode": f"0{step.mode:o}",
    }
    if step.validate:
        arguments["validate"] = f"sh -c {quote(f'new=$1; {step.validate}')} sh %s"
    return [tasks.task(step, "copy", arguments)]


@said.register
def _settings(step: Settings, tasks: Tasks) -> list[Task]:
    # homelab restarts it only where a setting needs that, and has PostgreSQL read the file before it takes its place:
    # Ansible would have it read in root's folder, where PostgreSQL may not look.
    (file,) = _file(replace(step, validate=""), tasks)
    restart = {"name": step.server.unit, "state": "restarted"}
    return [
        file,
        {
            "name": "restart PostgreSQL",
            "ansible.builtin.systemd_service": restart,
            "when": f"{file['register']} is changed",
        },
    ]


@said.register
def _hba(step: PgHba, tasks: Tasks) -> list[Task]:
    # homelab also has the server read it before, and sees whether the server has loaded it.
    (file,) = _file(step, tasks)
    reload = f"{step.psql} -c 'select pg_reload_conf()'"
    return [
        file,
        {
            "name": "load pg_hba.conf",
            "ansible.builtin.shell": {"cmd": reload},
            "when": f"{file['register']} is changed",
        },
    ]


@said.register
def _tree(step: Tree, tasks: Tasks) -> list[Task]:
    record = Recorder()
    step.apply(record)
    folder: Task = {"name": step.title, "ansible.builtin.file": {"path": step.path, "state": "directory"}}
    return [
        folder,
        tasks.task(
            step,
            "unarchive",
            {"src": tasks.stored(step, record.said[0][1]), "dest": step.path, "owner": "root", "group": "root"},
        ),
    ]


@said.register
def _running(step: SystemdUnit, tasks: Tasks) -> list[Task]:
    cause = tasks.cause(step)
    return [
        tasks.task(
            step,
            "systemd_service",
            {
                "name": step.unit,
                "enabled": True,
                "daemon_reload": f"{{{{ {cause} }}}}",
                "state": f"{{{{ 'restarted' if {cause} else 'started' }}}}",
            },
        )
    ]
