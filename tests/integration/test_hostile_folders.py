"""A real second user attacks the folders in which root's steps write, with links: no write is redirected."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.model import ManagedResource, ServiceContext, Step
from homelab.runtime import clone_identity
from homelab.runtime.convergence import steps_of
from homelab.sandbox import Sandbox
from homelab.steps import Certificate, Command, Directory, File, PgHba, Settings, SystemdUnit, Tree, Venv, remote_paths
from homelab.steps.manifest import RemoveResource
from tests.integration import pg
from tests.scripts import IN_CONTAINER
from tests.support import FixedSecretStore, LocalHost
from tests.unit.test_services import KEYS, inventory
from tests.unit.test_write_safety import writable

ATTACKER = 65534  # nobody
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root and a second user")


@dataclass(frozen=True)
class Machine:
    """A folder that stands for the root of a container, and a folder that an attacker wants root to write in."""

    root: Path

    @property
    def service(self) -> Path:
        """The folder that the attacker's service can write."""
        return self.root / "service"

    @property
    def target(self) -> Path:
        """A folder of root, such as /etc/systemd/system."""
        return self.root / "etc"

    def attack(self, script: str) -> int:
        """Run a shell script as the attacker; return its exit status."""
        return subprocess.run(
            ["sh", "-c", script], user=ATTACKER, group=ATTACKER, extra_groups=[], cwd=self.service, check=False
        ).returncode

    def state(self) -> dict[str, str]:
        """Return the entries of the target with their owners and contents."""
        return {
            str(path.relative_to(self.target)): f"{path.lstat().st_uid} {path.lstat().st_mode:o} "
            + (path.read_text() if path.is_file() else "")
            for path in [self.target, *sorted(self.target.rglob("*"))]
        }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    # Not below pytest's folder, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="homelab-hostile-") as folder:
        found = Machine(Path(folder))
        found.root.chmod(0o755)
        for each in (found.service, found.target):
            each.mkdir()
            each.chmod(0o755)
        os.chown(found.service, ATTACKER, ATTACKER)
        (found.target / "passwd").write_text("root\n")
        monkeypatch.setattr(remote_paths, "STATE", str(found.root / "state"))
        yield found


def steps_below(folder: Path) -> list[Step]:
    """Return a step of each kind that writes, each below this folder, and the removal of what they made."""
    path = str(folder)
    certificate = b"-----BEGIN CERTIFICATE-----\nx\ny\n-----END CERTIFICATE-----\n"
    kinds = ("file", "tree", "directory", "made", "venv", "certificate")
    return [
        Directory(f"{path}/made"),
        Directory(f"{path}/data", "nobody", "nogroup", 0o700),
        File(f"{path}/passwd", b"attacker\n"),
        File(f"{path}/key", b"secret", "nobody", "nogroup", 0o600, secret=True),
        Tree(f"{path}/tree", {"x.service": b"x"}),
        PgHba(f"{path}/passwd", b"local\n", "nobody", "nogroup"),
        Settings(f"{path}/passwd", b"port = 1\n", server=SystemdUnit("x")),
        Certificate(f"{path}/ca.crt", certificate),
        Venv(f"{path}/venv", b""),
        Command("made", "false", f"touch {path}/made", makes=[ManagedResource("made", f"{path}/made")]),
        Command("written", "false", f"touch {path}/made", writes=[f"{path}/made"]),
        *(RemoveResource(ManagedResource(kind, f"{path}/passwd")) for kind in kinds),
    ]


KINDS = [f"{number}-{type(step).__name__}" for number, step in enumerate(steps_below(Path("/x")))]


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("way", ["link", "own-folder", "folder-of-root-in-own-folder", "group", "everyone"])
def test_no_step_writes_where_another_user_can_redirect_it(machine: Machine, number: int, way: str) -> None:
    below = machine.service / ".ssh"
    if way == "link":
        assert machine.attack(f"ln -s {machine.target} .ssh") == 0
    else:
        below.mkdir()
        os.chown(below, *{"own-folder": (ATTACKER, ATTACKER), "group": (0, ATTACKER)}.get(way, (0, 0)))
        below.chmod({"group": 0o775, "everyone": 0o777}.get(way, 0o755))
        if way in ("group", "everyone"):  # only this folder is open
            os.chown(machine.service, 0, 0)
        (below / "passwd").write_text("mine\n")
    before, inside = machine.state(), sorted(path.name for path in below.iterdir())
    step, host = steps_below(below)[number], LocalHost()
    assert not isinstance(step, RemoveResource) or step.check(host.batch(step.probes())) is None
    with pytest.raises(HomelabError) as error:
        step.apply(host)
    assert "homelab: refused to write:" in error.value.details, str(error.value)
    assert machine.state() == before
    assert sorted(path.name for path in below.iterdir()) == inside


@pytest.mark.parametrize("number", range(2))
def test_directory_step_follows_no_link_at_its_end(machine: Machine, number: int) -> None:
    step = steps_below(machine.root)[number]
    assert isinstance(step, Directory)
    Path(step.path).symlink_to(machine.target)
    before = machine.state()
    with pytest.raises(HomelabError, match="Cannot create") as error:
        step.apply(LocalHost())
    assert "is a link" in error.value.details
    assert machine.state() == before


def test_file_step_replaces_a_link_at_its_end(machine: Machine) -> None:
    path = machine.root / "file"
    path.symlink_to(machine.target / "passwd")
    before = machine.state()
    File(str(path), b"new\n").apply(LocalHost())
    assert (path.is_symlink(), path.read_text()) == (False, "new\n")
    assert machine.state() == before


def test_folder_that_changes_during_the_steps_never_redirects_one(machine: Machine) -> None:
    """The attacker exchanges a folder and a link as fast as possible: between any check and its use, too."""
    code = f"""
import os
while True:
    os.mkdir(".ssh"); os.rename(".ssh", "old"); os.symlink({str(machine.target)!r}, ".ssh")
    os.unlink(".ssh"); os.rmdir("old")
"""
    before = machine.state()
    attacker = subprocess.Popen(
        [sys.executable, "-c", code], user=ATTACKER, group=ATTACKER, extra_groups=[], cwd=machine.service
    )
    try:
        for _ in range(8):
            for step in steps_below(machine.service / ".ssh"):
                with pytest.raises(HomelabError):
                    step.apply(LocalHost())
    finally:
        attacker.kill()
        attacker.wait()
    assert machine.state() == before


def test_attacker_can_change_no_entry_on_the_way_to_what_root_writes(machine: Machine, tmp_path: Path) -> None:
    """Create the folders of every service as the steps do, and attack each entry on the way to each written path."""
    wanted = inventory(tmp_path)
    for container in wanted.containers:
        context = ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
        steps = list(steps_of(context))
        root, open_folders = machine.root / container.name, writable(steps)
        root.mkdir(mode=0o755)
        for folder in sorted(open_folders):
            (root / folder[1:]).mkdir(mode=0o755, parents=True)
            os.chown(root / folder[1:], ATTACKER, ATTACKER)
        for step in (step for step in steps if isinstance(step, Directory)):
            owner = ("root", "root") if step.owner == "root" else ("nobody", "nogroup")
            Directory(f"{root}{step.path}", *owner, step.mode).apply(LocalHost())
        attempts = set()
        for path in {getattr(step, "path", "") for step in steps} - {""}:
            for each in [path, *map(str, Path(path).parents)]:
                if each != "/" and each not in open_folders:
                    attempts |= {f"ln -sT /etc '{root}{each}'", f"rm -r '{root}{each}'"}
                attempts.add(f"mv '{root}{each}' '{machine.service}/mine'")
        for attempt in sorted(attempts):
            assert machine.attack(f"exec 2>/dev/null; {attempt}") != 0, attempt
        assert len(attempts) > 20


@pytest.mark.skipif(pg.archive() is None, reason="PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
def test_local_cluster_is_made_without_a_write_in_the_servers_folder(machine: Machine) -> None:
    """`homelab dev` as root: the server's user owns the folder of the cluster, and can put links into it."""
    code = f"""
import os
while True:
    for name in ("password", "data/postgresql.auto.conf"):
        try:
            os.symlink({str(machine.target / "passwd")!r}, "link"); os.rename("link", name)
        except OSError:
            os.unlink("link")
"""
    found = pg.archive()
    assert found
    cluster = pg.Server(pg.unpack(found, machine.root), machine.service / "data", pg.free_port(), "secret")
    before = machine.state()
    attacker = subprocess.Popen(
        [sys.executable, "-c", code], user=ATTACKER, group=ATTACKER, extra_groups=[], cwd=machine.service
    )
    while not (machine.service / "password").is_symlink():
        time.sleep(0.01)
    try:
        with contextlib.suppress(subprocess.CalledProcessError):  # of initdb, which the attacker can disturb
            cluster.initialise(pg.SETTINGS)
    finally:
        attacker.kill()
        attacker.wait()
    assert machine.state() == before


def test_progress_is_read_with_the_privileges_of_the_pipeline(machine: Machine) -> None:
    secret = machine.target / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    read = Sandbox("pipeline-weather", (f"{IN_CONTAINER}/data",)).read(f"{IN_CONTAINER}/data/progress")
    text = read.replace("uid=pipeline-weather", "uid=nobody").replace("gid=pipeline-weather", "gid=nogroup")
    text = text.replace(f"{IN_CONTAINER}/data", str(machine.service))
    (machine.service / "progress").write_text("half\n")
    assert LocalHost().run(text).text == "half"
    machine.attack(f"ln -sf {secret} progress")
    assert LocalHost().run(text).text == ""
    machine.attack("rm progress; mkfifo progress")
    assert not LocalHost().run(text.replace("timeout 5", "timeout 0.2"), timeout=5).ok


def test_logs_of_a_clone_are_emptied_without_following_a_link(machine: Machine) -> None:
    """A service exchanges its log for a link after the search; here, the first `truncate` does it."""
    logs = machine.root / "log"
    logs.mkdir()
    machine.service.rename(logs / "service")
    for log in (logs / "wtmp", logs / "service" / "own.log"):
        log.write_text("x")
    truncate = machine.root / "truncate"
    link = f"ln -sfn {machine.target}/passwd {logs}/service/own.log"
    truncate.write_text(f'#!/bin/sh\n{link}\nexec /usr/bin/truncate "$@"\n')
    truncate.chmod(0o755)
    before = machine.state()
    lines = [line for line in clone_identity.TAKE.splitlines() if line.startswith("find ")]
    script = "\n".join(lines).replace("/var/log", str(logs))
    subprocess.run(["sh", "-ec", script], check=True, env={"PATH": f"{machine.root}:/usr/bin:/bin"})
    assert machine.state() == before
    assert (logs / "wtmp").read_text() == ""
