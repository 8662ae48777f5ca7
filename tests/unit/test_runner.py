"""The service runner: its program, its registration, its key on the containers, and the files of `homelab ci grant`.

No test runs the program: the tests reach neither vendor.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from homelab.commands import ci_grant
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory, Secret, ServiceContext, Step
from homelab.model.firewall import desired_firewall
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.runtime.convergence import steps_of
from homelab.runtime.session import Session
from homelab.secrets import FileSecretStore
from homelab.services.lab_certificates import lab_names
from homelab.steps import Command, File
from tests.support import FixedSecretStore

PROGRAM = b"#!/bin/sh\necho program\n"
RUNNER = {
    "kind": "github",
    "url": "https://github.com/you/homelab",
    "download": "https://github.com/actions/runner/releases/download/v2.330.0/actions-runner-linux-x64-2.330.0.tar.gz",
    "sha256": hashlib.sha256(PROGRAM).hexdigest(),
}
GITEA = {**RUNNER, "kind": "gitea", "url": "https://gitea.home.arpa"}
TOKEN = "secret-of-runner"


def inventory(folder: Path, services: dict[str, object], ip: str = ".79", **more: object) -> Inventory:
    """Return the shipped inventory with a container of these services, in a folder of its own."""
    (folder / "inventory.yaml").write_bytes(bundled_path("inventory.yaml").read_bytes())
    overlay = folder / "overlay.yaml"
    key = folder / ".homelab" / "openweather-api-key"
    key.parent.mkdir(exist_ok=True)
    key.write_text("openweather-key")
    key.chmod(0o600)
    box = {"vmid": 179, "ip": ip, "cores": 1, "memory": 1024, "services": services}
    overlay.write_text(json.dumps({"containers": {"ci": box}, **more}))
    return load([folder / "inventory.yaml", overlay])


def steps(found: Inventory, name: str) -> list[Step]:
    (container,) = [each for each in found.containers if each.name == name]
    store = FixedSecretStore()
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    context = ServiceContext(inventory=found, container=container, secret_store=store, host_keys=keys)
    return list(steps_of(context))


def command(found: list[Step], title: str) -> Command:
    return next(step for step in found if isinstance(step, Command) and title in step.title)


@pytest.mark.parametrize("options", [RUNNER, GITEA])
def test_the_token_is_on_standard_input_only(tmp_path: Path, options: dict[str, object]) -> None:
    found = steps(inventory(tmp_path, {"runner": options}), "ci")

    registration = command(found, "registration")

    assert registration.stdin == f"{TOKEN}\n".encode()
    assert TOKEN not in registration.command
    assert all(TOKEN.encode() not in step.content for step in found if isinstance(step, File))


@pytest.mark.parametrize(("options", "start"), [(RUNNER, "/run.sh"), (GITEA, "/act_runner daemon")])
def test_the_unit_starts_the_program(tmp_path: Path, options: dict[str, object], start: str) -> None:
    found = steps(inventory(tmp_path, {"runner": options}), "ci")

    unit = next(step for step in found if isinstance(step, File) and step.path.endswith("/homelab-runner.service"))

    assert f"{start}\n" in unit.content.decode()
    assert "User=homelab-runner\n" in unit.content.decode()


def registration_script(found: list[Step], home: Path, program: Path) -> list[str]:
    """Return the words of the registration, with folders of the test."""
    text = command(found, "registration").command.split(" && echo ")[0]
    text = text.replace("/usr/local/sbin/homelab-as-homelab-runner ", "")
    for old, new in (("/var/lib/homelab-runner", home), ("/opt/homelab/runner/act_runner", program)):
        text = text.replace(old, str(new))
    return ["sh", "-c", text.replace("/opt/homelab/runner/runner.tar.gz", str(program))]


def test_gitea_s_program_reads_the_answers(tmp_path: Path) -> None:
    program = tmp_path / "act_runner"
    program.write_text('#!/bin/sh\necho "$@" >words; cat >.runner\n')
    program.chmod(0o755)
    (tmp_path / ".runner").write_text("of an earlier address")
    found = steps(inventory(tmp_path, {"runner": GITEA}), "ci")

    subprocess.run(registration_script(found, tmp_path, program), input=f"{TOKEN}\n".encode(), check=True)

    labels = "self-hosted:host,homelab:host"
    assert (tmp_path / ".runner").read_text().splitlines() == ["https://gitea.home.arpa", TOKEN, "ci", labels]
    assert (tmp_path / "words").read_text() == "register\n"


@pytest.mark.parametrize("registers", [True, False])
def test_github_s_program_gets_the_token_in_its_environment(tmp_path: Path, registers: bool) -> None:
    script = '#!/bin/sh\necho "$@" >words; echo "$ACTIONS_RUNNER_INPUT_TOKEN" >token\n'
    script += "echo {} >.runner\n" if registers else ""
    archive, home = tmp_path / "runner.tar.gz", tmp_path / "home"
    home.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("./config.sh")
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script.encode()))
    found = steps(inventory(tmp_path, {"runner": RUNNER}), "ci")

    done = subprocess.run(registration_script(found, home, archive), input=f"{TOKEN}\n".encode(), check=False)

    assert (done.returncode == 0) is registers
    assert (home / "token").read_text() == f"{TOKEN}\n"
    words = "--unattended --replace --url https://github.com/you/homelab --name ci --labels self-hosted,homelab\n"
    assert (home / "words").read_text() == words


@pytest.mark.parametrize(("content", "installed"), [(PROGRAM, True), (b"another program", False)])
def test_only_the_expected_program_is_installed(tmp_path: Path, content: bytes, installed: bool) -> None:
    source, folder = tmp_path / "source", tmp_path / "runner"
    folder.mkdir()
    source.write_bytes(content)
    step = command(steps(inventory(tmp_path, {"runner": GITEA}), "ci"), "program")
    texts = [each.replace("/opt/homelab/runner", str(folder)) for each in (step.command, *step.probes())]
    fetch = texts[0].replace("https,http", "file").replace(str(GITEA["download"]), source.as_uri())

    statuses = [subprocess.run(["sh", "-c", each], check=False).returncode for each in (fetch, texts[1])]

    assert statuses == ([0, 0] if installed else [1, 1])
    assert os.listdir(folder) == (["act_runner"] if installed else [])


def test_every_container_accepts_its_key_from_its_address_only(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"runner": RUNNER}, network={"ssh_allowed_from": [".5"]}, defaults={"firewall": True})

    for container in found.containers:
        files = [each for each in steps(found, container.name) if isinstance(each, File)]
        keys = next(each.content for each in files if each.path == "/root/.ssh/authorized_keys").decode()
        assert 'restrict,from="192.168.2.79" ssh-ed25519 ' in keys
        rules = [rule.source for rule in desired_firewall(found, container).rules if rule.port == "22"]
        assert "192.168.2.79" in rules


def test_an_address_of_dhcp_is_refused(tmp_path: Path) -> None:
    # Else, no container could be deployed while that of the runner is off.
    with pytest.raises(InputError, match=r"ip: must be an address, and not `dhcp`: every container admits `runner`"):
        inventory(tmp_path, {"runner": RUNNER}, ip="dhcp")


def test_a_container_with_another_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runner: needs a container of its own, apart from redis"):
        inventory(tmp_path, {"runner": RUNNER, "redis": {}})


@dataclass
class Machine:
    """A connection to the runner that runs nothing, and records."""

    cloned: bool = True
    name: str = "ci"
    ran: list[str] = field(default_factory=list)
    received: bytes = b""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        self.ran.append(command)
        self.received += stdin
        return Result(command, 0 if self.cloned else 1)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def session(found: Inventory, machine: Machine) -> Session:
    def connect(container: Container, key: Secret, known_hosts: KnownHosts, deadline: float) -> Any:
        assert container.name == "ci"
        return machine

    folder = found.state_dir
    return Session(
        inventory=found,
        secrets=FileSecretStore(folder),
        known_hosts=KnownHosts.of(folder),
        progress=SilentProgress(),
        connector=connect,
    )


def deployed(found: Inventory) -> FileSecretStore:
    """Return the secrets after a deploy, next to files that are not for the runner."""
    store = FileSecretStore(found.state_dir)
    for name in ("operator", "runner", "airflow"):
        store.key_pair(name)
    store.secret("postgres-dbt")
    store.authority(found.lab, lab_names(found))
    (found.path.parent / ".homelab" / "proxmox-token").write_text("proxmox-secret")
    return store


def granted(folder: Path, found: Inventory) -> tuple[FileSecretStore, Machine]:
    """Return the secrets on the runner after the grant, and its recorded connection."""
    machine = Machine()
    ci_grant.grant(session(found, machine))
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=machine.received, check=True)
    return FileSecretStore(folder / ".homelab" / "home"), machine


def test_a_grant_has_what_a_deploy_needs_and_nothing_else(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"runner": RUNNER})
    own, clone = deployed(found), tmp_path / "clone"

    copy, machine = granted(clone, found)

    files = sorted(str(each.relative_to(clone)) for each in clone.rglob("*") if each.is_file())
    assert files == [
        ".homelab/home/airflow_ed25519",
        ".homelab/home/ca.pem",
        ".homelab/home/operator_ed25519",
        ".homelab/home/operator_ed25519.pub",
        ".homelab/home/runner_ed25519",
        ".homelab/home/secrets.json",
        ".homelab/openweather-api-key",
    ]
    assert all((clone / each).stat().st_mode & 0o077 == 0 for each in files)
    assert own.key_pair("operator")[0].reveal().encode() not in machine.received
    # It logs in with its own key, and its deploys leave the operator's key on the containers.
    assert copy.key_pair("operator")[0].reveal() == own.key_pair("runner")[0].reveal()
    assert copy.key_pair("operator")[1] == own.key_pair("operator")[1]
    assert copy.secret("postgres-dbt").reveal() == own.secret("postgres-dbt").reveal()
    assert all(each.startswith("setpriv --reuid=homelab-runner") for each in machine.ran)


@pytest.mark.parametrize("given", [".homelab/../.homelab/keys/./weather", ".homelab/keys/weather"])
def test_a_grant_copies_the_key_of_openweather_from_any_place_in_the_state_folder(tmp_path: Path, given: str) -> None:
    found = with_key(inventory(tmp_path, {"runner": RUNNER}), given)
    deployed(found)
    granted(tmp_path / "clone", found)
    assert (tmp_path / "clone" / ".homelab" / "keys" / "weather").read_text() == "key-of-openweather"


@pytest.mark.parametrize("given", ["key", ".homelab/../key", "../key"])
def test_a_grant_refuses_a_key_of_openweather_that_it_cannot_copy(tmp_path: Path, given: str) -> None:
    found = with_key(inventory(tmp_path, {"runner": RUNNER}), given)
    deployed(found)
    machine = Machine()
    with pytest.raises(InputError, match="Cannot copy OpenWeather's key to the runner") as refused:
        ci_grant.grant(session(found, machine))
    assert "`api_key_file: .homelab/key`" in refused.value.resolution
    assert not machine.received


def with_key(found: Inventory, given: str) -> Inventory:
    """Return the inventory with another file of OpenWeather's key."""
    path = found.path.parent / given
    (found.path.parent / ".homelab").mkdir(exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("key-of-openweather")
    path.chmod(0o600)
    assert found.weather
    (found.path.parent / "sub").mkdir()  # as after `-i sub/../inventory.yaml`
    inventory_path = found.path.parent / "sub" / ".." / found.path.name
    return replace(found, path=inventory_path, weather=replace(found.weather, api_key_file=path))


def render_all(found: Inventory, store: FileSecretStore) -> list[object]:
    """Return the contents of every file that a deploy of these containers writes."""
    keys = {each.name: f"ssh-ed25519 AAAA {each.name}" for each in found.containers}
    contexts = [
        ServiceContext(inventory=found, container=each, secret_store=store, host_keys=keys) for each in found.containers
    ]
    return [
        (step.title, getattr(step, "content", getattr(step, "files", ""))) for c in contexts for step in steps_of(c)
    ]


def test_a_deploy_from_the_runner_writes_what_the_operator_s_does(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"runner": RUNNER})
    own = deployed(found)
    own.set("runner", TOKEN)
    expected = render_all(found, own)

    copy, _ = granted(tmp_path / "clone", found)

    assert render_all(found, copy) == expected


@pytest.mark.parametrize(
    "change", [lambda store: store.secret("new"), lambda store: store.set("new", "1"), lambda s: s.key_pair("new")]
)
def test_a_runner_makes_no_secret(tmp_path: Path, change: Callable[[FileSecretStore], object]) -> None:
    found = inventory(tmp_path, {"runner": RUNNER})
    deployed(found)
    copy, _ = granted(tmp_path / "clone", found)

    with pytest.raises(InputError, match=r"this machine has a copy of the secrets") as refused:
        change(copy)

    assert "homelab ci grant" in refused.value.resolution


def test_a_grant_needs_a_deploy_and_a_clone(tmp_path: Path) -> None:
    found = inventory(tmp_path, {"runner": RUNNER})
    with pytest.raises(InputError, match="it is not deployed yet"):
        ci_grant.grant(session(found, Machine()))
    deployed(found)
    machine = Machine(cloned=False)

    with pytest.raises(HomelabError, match="/srv/homelab is not a clone"):
        ci_grant.grant(session(found, machine))

    assert not machine.received
