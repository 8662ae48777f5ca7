"""The peer Ansible, with the collection community.proxmox, for the same containers on the same node."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.node import SECRET, Node, Seen
from benchmarks.process import ROOT, run_program
from homelab.model import Container
from homelab.proxmox.properties import options
from tests.integration.fakenode import TOKEN

VENV = ROOT / "benchmarks" / ".venv"
_REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
# Each container is a host, and there are as many forks as hosts: Ansible's own way of parallel work.
_TASKS = ("described", "running")
_CONFIG = "[defaults]\nforks = 30\npipelining = true\nretry_files_enabled = false\n"


@dataclass(frozen=True)
class Run:
    """A run of a playbook: its seconds, the calls to the node, and the number of tasks that reported `changed`."""

    seconds: float
    seen: Seen
    changed: int


def installed() -> str:
    """Create the environment of the peers, unless it exists, and return their versions."""
    uv, python = Path(sys.executable).with_name("uv"), VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, VENV], check=True)
    subprocess.run([uv, "pip", "sync", "-q", "--require-hashes", "--python", python, _REQUIREMENTS], check=True)
    (manifest,) = VENV.glob("lib/python3*/site-packages/ansible_collections/community/proxmox/MANIFEST.json")
    collection = json.loads(manifest.read_text())["collection_info"]["version"]
    core = subprocess.run([VENV / "bin" / "ansible", "--version"], check=True, capture_output=True, text=True).stdout
    others = ", ".join(f"{name} {_version(name)}" for name in ("mitogen", "pyinfra"))
    return f"ansible-core {core.partition('[core ')[2].partition(']')[0]}, community.proxmox {collection}, {others}"


def _version(package: str) -> str:
    (found,) = VENV.glob(f"lib/python3*/site-packages/{package}-*.dist-info")
    return found.name.removesuffix(".dist-info").rpartition("-")[2]


class Playbook:
    """A playbook for the same containers, without tags and description.

    The module would write those at each run: it compares a list of tags with Proxmox's text, and a description with one
    to which Proxmox has added a newline. All other options are there.
    """

    def __init__(self, folder: Path, node: Node, containers: Sequence[Container]) -> None:
        self._folder, self._node = folder, node
        folder.mkdir()
        hosts = {c.name: {"described": _described(c, node), "running": _running(c, node)} for c in containers}
        first = hosts[containers[0].name]
        tasks = [
            {"community.proxmox.proxmox": {option: f"{{{{ {task}['{option}'] }}}}" for option in first[task]}}
            for task in _TASKS
        ]
        common = {"ansible_connection": "local", "ansible_python_interpreter": str(VENV / "bin" / "python")}
        (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        (folder / "ansible.cfg").write_text(_CONFIG)

    def run(self) -> Run:
        """Run the playbook."""
        with self._node.counting() as seen:
            run = run_program([str(VENV / "bin" / "ansible-playbook"), "-i", "hosts.json", "play.yml"], self._folder)
        return Run(run.seconds, seen[0], changes(run.output))


def changes(output: str) -> int:
    """Return the number of changed tasks from the recap of a playbook."""
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output))


def _login(node: Node) -> dict[str, Any]:
    user, _, name = TOKEN.partition("!")
    return {
        "api_host": "127.0.0.1",
        "api_port": node.port,
        "api_user": user,
        "api_token_id": name,
        "api_token_secret": SECRET,
        "validate_certs": False,
        "node": "pve",
    }


def _described(container: Container, node: Node) -> dict[str, Any]:
    wanted = options(container.shape)
    return _login(node) | {
        "vmid": container.vmid,
        "hostname": container.name,
        "state": "present",
        "update": True,
        "ostemplate": "local:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst",
        "disk": f"{container.storage}:{container.shape.disk}",
        "timeout": 120,
        "unprivileged": True,
        "cores": wanted["cores"],
        "memory": wanted["memory"],
        "swap": wanted["swap"],
        "netif": {"net0": wanted["net0"]},
        "onboot": bool(wanted["onboot"]),
        "features": [wanted["features"]],
        "startup": [wanted["startup"]],
    }


def _running(container: Container, node: Node) -> dict[str, Any]:
    return _login(node) | {"vmid": container.vmid, "state": "started", "timeout": 120}
