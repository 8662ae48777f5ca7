"""Services of a package and of a file next to the inventory: deployed, changed and removed in a real container."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from homelab.lab import Lab
from homelab.testing import check_in_container
from tests.integration.lab_fixture import fresh, in_a_lab, install_echo_stack, run_homelab

LAB = Lab("services", IPv4Network("10.99.2.80/28"), "hl-serv", 18156, 8239)
INVENTORY = """
lab: x
proxmox: {{host: x, token_id: homelab@pve!x}}
network: {{subnet: 10.99.2.80/28, gateway: .81, bridge: x}}
containers:
  box: {{vmid: 180, ip: .84, cores: 1, memory: 512, disk: 4, services: {services}}}
pipelines: {{weather: {{cities: ["Newark,US"]}}}}
"""

pytestmark = in_a_lab()


@dataclass(frozen=True)
class Folder:
    """A user's folder with an inventory, and homelab's command line in it."""

    path: Path
    packages: Path

    def write(self, services: str) -> None:
        """Write the inventory with these services."""
        (self.path / "inventory.yaml").write_text(INVENTORY.format(services=services))

    def homelab(self, *words: str, expect: int = 0) -> str:
        """Run a command and check its exit code; return both outputs."""
        environment = {"PYTHONPATH": str(self.packages), "XDG_STATE_HOME": str(self.path / "state")}
        done = run_homelab(self.path, [LAB.overlay], words, environment=environment, expect=[expect])
        return done.stdout + done.stderr

    def on_box(self, command: str) -> str:
        """Run a command in the container as root."""
        return self.homelab("ssh", "box", "--", command).strip()

    def status(self) -> dict[str, Any]:
        """Return the health of each service of the container."""
        (box,) = json.loads(self.homelab("status", "--json"))["containers"]
        return {each["name"]: each["health"] for each in box["services"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    packages = install_echo_stack(tmp_path_factory.mktemp("packages"))
    folder = Folder(tmp_path_factory.mktemp("home"), packages)
    with fresh(LAB):
        folder.write("{}")
        folder.homelab("up", "--yes")
        yield folder


def page(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://10.99.2.84:{port}/", timeout=10) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def test_service_of_a_package_is_deployed_changed_and_removed(folder: Folder) -> None:
    folder.write("{echo: {text: first}}")
    folder.homelab("up", "--yes")  # it starts after the containers that it requires
    folder.homelab("deploy")
    assert page(8901) == "first\n"
    assert folder.status()["echo"]["healthy"]
    folder.homelab("deploy", "--detailed-exitcode")
    folder.write("{echo: {text: second, port: 8902}}")
    assert "echo.service" in folder.homelab("deploy")
    assert page(8902) == "second\n"
    folder.write("{}")
    assert "unit echo.service" in folder.homelab("deploy", "--dry-run")
    folder.homelab("deploy")
    with pytest.raises(OSError, match="refused"):
        page(8902)


def test_service_of_a_package_keeps_the_contract_in_a_container(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder.packages)
    folder.write("{echo: {text: first}}")
    check_in_container([folder.path / "inventory.yaml", LAB.overlay], "box", "echo")
    assert re.match(r"echo: killed at \d+ points", capsys.readouterr().out)


def test_upgrade_runs_the_commands_of_the_service_and_a_failed_one_is_named(folder: Folder) -> None:
    folder.write("{echo: {text: first}}")
    folder.homelab("deploy")
    folder.write("{echo: {text: first, format: 9}}")
    output = folder.homelab("deploy", expect=1)
    assert "Cannot upgrade echo on box: the command failed" in output
    assert "format 9 is unknown" in output
    assert page(8901) == "first\n"
    folder.write("{echo: {text: first, format: 2}}")
    assert "format 1 becomes format 2" in folder.homelab("deploy", "--dry-run")
    folder.homelab("deploy")
    assert folder.on_box("cat /var/lib/echo/format /var/lib/echo/format.before").split() == ["2", "1"]


def test_backup_and_restore_run_the_commands_of_the_service(folder: Folder) -> None:
    folder.on_box("rm -f /var/lib/echo/restored")
    folder.homelab("backup", "box")
    assert folder.on_box("ls /var/lib/echo").split() == ["format", "format.before"]
    folder.homelab("destroy", "--yes", "--limit", "box")
    folder.homelab("restore", "box")
    assert folder.on_box("cat /var/lib/echo/restored /var/lib/echo/dump").split() == ["2", "2"]
    folder.homelab("deploy")
    assert folder.status()["echo"]["healthy"]


def test_local_service_is_written_approved_and_deployed(folder: Folder) -> None:
    folder.homelab("service", "new", "file_share")
    folder.write("{file_share: {port: 8905}}")
    assert "`homelab trust code services/file_share.py`" in folder.homelab("deploy", expect=2).replace("\n", " ")
    folder.homelab("trust", "code", "services/file_share.py", "--yes")
    folder.homelab("deploy")
    assert "Directory listing" in page(8905)
    assert folder.status()["file_share"]["healthy"]
    assert "services/file_share.py" in folder.homelab("services")
