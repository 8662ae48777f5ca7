"""The hand-written script `cold.sh`, and the files next to it; only their content comes from the steps."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from shlex import quote

from benchmarks.peers.shell_steps import shell_step
from benchmarks.stack import Stack
from homelab.model import Step
from homelab.progress import SilentProgress
from homelab.runtime.session import Session
from homelab.runtime.ssh_client import ssh_argv
from homelab.steps import (
    Command,
    Database,
    Directory,
    File,
    FinishUpgrade,
    HealthCheck,
    Packages,
    Role,
    ServerCertificate,
    Sql,
    SystemdUnit,
    Tree,
    UvInstall,
    Venv,
    WaitFor,
    remote_paths,
)

# They need the cluster or PostgreSQL's user, replace an owner that the package sets, or allow Airflow's login.
_LATE = ("/etc/postgresql/", "/var/lib/postgresql", "/etc/ssl/homelab/postgres.pem", "/home/analytics/.ssh")


class Script:
    """One archive for each container, which is sent and run over one connection."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._archives = {name: _archive(_files(stack, steps)) for name, steps in stack.steps().items()}

    def run(self) -> float:
        """Run all three in parallel and return the seconds. Raises SystemExit with the output of a failed one."""
        started = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._one, self._archives))
        return time.perf_counter() - started

    def _one(self, name: str) -> None:
        command = (
            "mkdir /root/cold && cd /root/cold && tar -xzf - && "
            f"sh cold.sh {name}; status=$?; rm -rf /root/cold; exit $status"
        )
        words = ssh_argv(Session.open(self._stack.inventory, SilentProgress()), name, [command])
        done = subprocess.run(words, input=self._archives[name], capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"Cannot run the script in {name}: {done.stderr.decode()[-2000:]}")


def _files(stack: Stack, steps: Sequence[Step]) -> dict[str, bytes]:
    """Return the files next to the script, by name."""
    late = [step for step in steps if isinstance(step, File | Directory | ServerCertificate) and _is_late(step.path)]
    files = {
        "early.tar": _tree([step for step in steps if step not in late]),
        "late.tar": _tree(late),
        "cold.sh": Path(__file__).with_name("cold.sh").read_bytes(),
    }
    waits = iter(("database.sh", "gate.sh"))
    facts = {"UNITS": " ".join(step.unit for step in steps if isinstance(step, SystemdUnit))}
    password = stack.secret_store.secret("airflow-admin").reveal()
    files["password"] = f"{password}\n{password}\n".encode()
    for step in steps:
        match step:
            case Packages():
                files["packages"] = " ".join(step.names).encode()
                facts["POSTGRES"] = step.names[0].rpartition("-")[2]
            case UvInstall():
                files["uv.txt"], facts["UV_DIGEST"] = step.lock, sha256(step.lock).hexdigest()
            case Venv():
                files["venv.txt"], facts["VENV"], facts["VENV_DIGEST"] = step.lock, step.path, step.digest
            case Command(name="airflow's admin user"):
                facts["ADMIN"] = step.command.rpartition("echo ")[2].split()[0]
            case FinishUpgrade():
                facts["UPGRADE"] = step.upgrade.version
            case WaitFor():
                files[next(waits)] = step.probe.encode()
            case HealthCheck():
                files["health.sh"] = step.commands[0].encode()
            case Role() | Database() | Sql():
                name = f"{step.database if isinstance(step, Sql) else 'postgres'}.sql"
                files[name] = files.get(name, b"") + shell_step(step).stdin.encode()
    return files | {"facts": "".join(f"{name}={quote(value)}\n" for name, value in facts.items()).encode()}


def _is_late(path: str) -> bool:
    return f"{path}/".startswith(_LATE)


def _tree(steps: Sequence[Step]) -> bytes:
    """Return a tar archive of files and directories with their owners and modes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for step in steps:
            for entry, content in _entries(step):
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _entries(step: Step) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    if isinstance(step, Directory):
        entry = _entry(step.path, step.owner, step.group, step.mode)
        entry.type = tarfile.DIRTYPE
        yield entry, b""
    elif isinstance(step, File):
        yield _entry(step.path, step.owner, step.group, step.mode, len(step.content)), step.content
    elif isinstance(step, ServerCertificate):
        content = step.authority.issue(step.names).encode()
        yield _entry(step.path, step.owner, step.group, 0o640, len(content)), content
        record = f"{sha256(content).hexdigest()}\n".encode()
        yield _entry(remote_paths.written(step.path), "root", "root", 0o600, len(record)), record
    elif isinstance(step, Tree):
        for name, content in step.files.items():
            yield _entry(f"{step.path}/{name}", "root", "root", 0o644, len(content)), content


def _entry(path: str, owner: str, group: str, mode: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.uname, entry.gname, entry.mode, entry.size = owner, group, mode, size
    return entry


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
