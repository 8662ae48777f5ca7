"""The peer Ansible: homelab's steps as one playbook with a list of tasks for each host.

It uses the modules `copy`, `file`, `unarchive`, `apt`, `user` and `systemd_service`, and for other steps `shell` with
its own check, which reports a change by its output. A tree of files is one archive, as one task per file would add a
second to each run.
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
from benchmarks.peers.shell_steps import Recorder, shell_step
from benchmarks.process import run_program
from homelab.model import Step
from homelab.steps import Command, Directory, DpkgConfigured, File, Packages, PgHba, Settings, SystemdUnit, Tree, User

_CHANGED = "homelab-changed"
_BASE = "[defaults]\nhome = {home}\n"
_FAST = _BASE + "forks = 30\ngathering = explicit\ninterpreter_python = /usr/bin/python3\n"
# The hosts have different task lists, which the strategy `linear` would run one host after the other.
CONFIGURATIONS = {
    "Ansible": _BASE,
    "Ansible, pipelining": _FAST + "strategy = free\n[connection]\npipelining = true\n",
    "Ansible + mitogen": _FAST + "strategy = mitogen_free\nstrategy_plugins = {mitogen}\n",
}

Task = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its seconds, and the number of tasks that reported `changed`."""

    seconds: float
    changed: int


class Playbook:
    """A folder with everything that Ansible needs."""

    def __init__(self, folder: Path, hosts: Mapping[str, tuple[str, Sequence[Step]]], key: Path, pins: str) -> None:
        """`hosts`: address and steps by name; `key`: the private key for the login; `pins`: the text of known_hosts."""
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
        # A new container may have no Python, which Ansible requires.
        install_python = "test -e /usr/bin/python3 || (apt-get update -qq && apt-get install -qq -y python3)"
        (folder / "cold.yml").write_text(
            json.dumps([{"hosts": "all", "tasks": [{"ansible.builtin.raw": install_python, "changed_when": False}]}])
        )
        for name, (_, steps) in hosts.items():
            tasks = Tasks(folder / "files" / name, steps).all()
            (folder / f"{name}.yml").write_text(json.dumps(tasks, indent=1))

    def run(self, configuration: str, cold: bool = False, limit: str = "all") -> Run:
        """Run the playbook with these settings: in new containers if `cold`, in one with `limit`. Raises SystemExit."""
        home = self._folder / "home"
        (mitogen,) = VENV.glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy")
        (self._folder / "ansible.cfg").write_text(CONFIGURATIONS[configuration].format(home=home, mitogen=mitogen))
        try:
            run = run_program(
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
            self.close_connections()
        return Run(run.seconds, changes(run.output))

    def close_connections(self) -> None:
        """Close the connections that Ansible keeps open for a minute, so that each run starts without any."""
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
        """Return all tasks."""
        return [task for step in self._steps for task in tasks_of(step, self)]

    def task(self, step: Step, module: str, arguments: Task, **more: Any) -> Task:
        """Return a task that registers its outcome for the steps that it triggers."""
        return {"name": step.title, f"ansible.builtin.{module}": arguments, "register": self.outcome(step), **more}

    def outcome(self, step: Step) -> str:
        """Return the name of the variable with a step's outcome."""
        return f"step_{self._numbers[step.title]}"

    def stored(self, step: Step, content: bytes) -> str:
        """Write the content to a local file and return its path."""
        path = self._files / str(self._numbers[step.title])
        path.write_bytes(content)
        return str(path)

    def is_triggered(self, step: Step) -> str:
        """Return the condition that is true if a step has changed that triggers this one."""
        return " or ".join(f"{self.outcome(each)} is changed" for each in step.triggered_by) or "false"


@singledispatch
def tasks_of(step: Step, tasks: Tasks) -> list[Task]:
    """Return the tasks of a step, with shell text if Ansible has no module for it."""
    shell = shell_step(step)
    if step.is_wait:
        return [
            tasks.task(
                step,
                "shell",
                {"cmd": _raw(shell.check)},
                until=f"{tasks.outcome(step)} is success",
                retries=300,
                delay=1,
                changed_when=False,
            )
        ]
    apply = f"( {shell.apply}\n) && echo {_CHANGED}"
    stdin: Task = {"stdin": _raw(shell.stdin), "stdin_add_newline": False} if shell.stdin else {}
    if isinstance(step, Command) and step.done == "true":
        return [tasks.task(step, "shell", {"cmd": _raw(apply), **stdin}, when=tasks.is_triggered(step))]
    not_triggered = f"{{{{ 'false' if {tasks.is_triggered(step)} else 'true' }}}}"
    read = " && cat >/dev/null" if stdin else ""  # unread input is an error for Ansible
    cmd = f"{not_triggered}{_raw(f' && {shell.check}{read} || {{ {apply}; }}')}"
    return [
        tasks.task(step, "shell", {"cmd": cmd, **stdin}, changed_when=f"'{_CHANGED}' in {tasks.outcome(step)}.stdout")
    ]


def _raw(text: str) -> str:
    """Return text that Ansible does not expand."""
    return f"{{% raw %}}{text}{{% endraw %}}"


@tasks_of.register
def _packages(step: Packages, tasks: Tasks) -> list[Task]:
    return [
        tasks.task(
            step,
            "apt",
            {"name": list(step.names), "install_recommends": False, "update_cache": True, "cache_valid_time": 86400},
        )
    ]


@tasks_of.register
def _finished(step: DpkgConfigured, tasks: Tasks) -> list[Task]:
    return []  # only homelab checks for an interrupted dpkg


@tasks_of.register
def _user(step: User, tasks: Tasks) -> list[Task]:
    return [
        tasks.task(
            step,
            "user",
            {"name": step.name, "home": step.home, "shell": step.shell, "system": True, "create_home": False},
        )
    ]


@tasks_of.register
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


@tasks_of.register
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


@tasks_of.register
def _settings(step: Settings, tasks: Tasks) -> list[Task]:
    # homelab restarts the server only if a setting requires it, and lets PostgreSQL validate the file first. Ansible's
    # validation would use a file in root's folder, which PostgreSQL cannot read.
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


@tasks_of.register
def _hba(step: PgHba, tasks: Tasks) -> list[Task]:
    # homelab also lets the server check the file first, and checks that it has loaded it.
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


@tasks_of.register
def _tree(step: Tree, tasks: Tasks) -> list[Task]:
    record = Recorder()
    step.apply(record)
    folder: Task = {"name": step.title, "ansible.builtin.file": {"path": step.path, "state": "directory"}}
    return [
        folder,
        tasks.task(
            step,
            "unarchive",
            {"src": tasks.stored(step, record.commands[0][1]), "dest": step.path, "owner": "root", "group": "root"},
        ),
    ]


@tasks_of.register
def _running(step: SystemdUnit, tasks: Tasks) -> list[Task]:
    triggered = tasks.is_triggered(step)
    return [
        tasks.task(
            step,
            "systemd_service",
            {
                "name": step.unit,
                "enabled": True,
                "daemon_reload": f"{{{{ {triggered} }}}}",
                "state": f"{{{{ 'restarted' if {triggered} else 'started' }}}}",
            },
        )
    ]
