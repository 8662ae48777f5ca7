"""Unattended security updates: their settings on each distribution, and the report of pending ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Container, Inventory, ServiceContext, Step
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.runtime import patch_level
from homelab.runtime.convergence import steps_of
from homelab.runtime.patch_level import PROBE, PatchLevel, parse, patch_levels
from homelab.steps import Directory, File, Packages, SystemdUnit
from tests.support import FixedSecretStore, LocalHost, make_session
from tests.unit.test_services import KEYS, POSTGRES, inventory

APT = "/etc/apt/apt.conf.d/52homelab-security-updates"
TIMER = "/etc/systemd/system/apt-daily-upgrade.timer.d/homelab.conf"
ORIGINS = {
    "ubuntu-24.04": "origin=Ubuntu,archive=${distro_codename}-security",
    "debian-12": "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
    "debian-13": "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
}


def steps(wanted: Inventory, service: str = "postgres") -> list[Step]:
    context = ServiceContext(
        inventory=wanted, container=wanted.container_with(service), secret_store=FixedSecretStore(), host_keys=KEYS
    )
    return list(steps_of(context))


def files(found: list[Step]) -> dict[str, str]:
    return {step.path: step.content.decode() for step in found if isinstance(step, File)}


def packages(found: list[Step]) -> list[str]:
    return [name for step in found if isinstance(step, Packages) for name in step.names]


@pytest.mark.parametrize("template", POSTGRES)
@pytest.mark.parametrize("service", ["postgres", "analytics", "airflow"])
def test_each_container_installs_the_security_updates_of_its_distribution(
    tmp_path: Path, template: str, service: str
) -> None:
    found = steps(inventory(tmp_path, template), service)
    assert packages(found).count("unattended-upgrades") == 1
    assert re.findall(r'"(origin=.*)"', files(found)[APT]) == [ORIGINS[template]]
    assert "OnCalendar=\nOnCalendar=04:00\n" in files(found)[TIMER]
    assert "apt-daily-upgrade.timer" in [step.unit for step in found if isinstance(step, SystemdUnit)]


def test_further_packages_need_no_further_transaction(tmp_path: Path) -> None:
    transactions = [step.names for step in steps(inventory(tmp_path)) if isinstance(step, Packages)]
    assert transactions == [["postgresql-16", "dbus", "unattended-upgrades"]]


def test_container_without_services_gets_the_updates(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    bare = replace(wanted.container_with("postgres"), services={})
    context = ServiceContext(inventory=wanted, container=bare, secret_store=FixedSecretStore(), host_keys=KEYS)
    assert packages(list(steps_of(context))) == ["unattended-upgrades"]


def test_unknown_template_gets_the_origins_of_all_distributions(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    other = replace(wanted.container_with("postgres"), template="local:vztmpl/other.tar.zst", services={})
    context = ServiceContext(inventory=wanted, container=other, secret_store=FixedSecretStore(), host_keys=KEYS)
    assert set(re.findall(r'"(origin=.*)"', files(list(steps_of(context)))[APT])) == set(ORIGINS.values())


def with_packages(tmp_path: Path, **keys: object) -> Inventory:
    (tmp_path / "more.yaml").write_text(json.dumps({"packages": keys}))
    inventory(tmp_path)
    return load([bundled_path("inventory.yaml"), tmp_path / "overlay.yaml", tmp_path / "more.yaml"])


def test_updates_can_be_turned_off(tmp_path: Path) -> None:
    """The distribution may have turned them on, so that the file says no."""
    found = steps(with_packages(tmp_path, security_updates=False))
    assert 'APT::Periodic::Unattended-Upgrade "0";' in files(found)[APT]
    assert "unattended-upgrades" not in packages(found)
    assert TIMER not in files(found)


@pytest.mark.parametrize("window", ["04:00", "23:59", "Sun 04:00"])
def test_maintenance_window_is_a_time_or_a_weekday_and_a_time(tmp_path: Path, window: str) -> None:
    text = files(steps(with_packages(tmp_path, maintenance_window=window)))[TIMER]
    assert f"OnCalendar={window}\n" in text
    if shutil.which("systemd-analyze"):
        subprocess.run(["systemd-analyze", "calendar", window], check=True, capture_output=True)


@pytest.mark.parametrize("window", ["24:00", "4:00", 840, "Someday 04:00", "04:00\nOnCalendar=hourly", ""])
def test_other_windows_are_refused(tmp_path: Path, window: object) -> None:
    with pytest.raises(InputError, match='a time in quotes such as "04:00"'):
        with_packages(tmp_path, maintenance_window=window)


def test_no_update_restarts_postgresql(tmp_path: Path) -> None:
    text = files(steps(inventory(tmp_path)))
    (held,) = re.findall(r'Package-Blacklist \{\n    "(.*)";', text[APT])
    assert [bool(re.match(held, name)) for name in ("postgresql-16", "postgresql-client-16", "libpq5", "openssl")] == [
        True,
        False,
        False,
        False,
    ]
    assert 'Automatic-Reboot "false"' in text[APT]
    assert "qr(^postgresql)} = 0" in text["/etc/needrestart/conf.d/homelab.conf"]
    assert "Persistent=false" in text[TIMER], "a missed window is no reason to update at the next start"
    assert {"/etc/needrestart", "/etc/needrestart/conf.d"} <= {
        step.path for step in steps(inventory(tmp_path)) if isinstance(step, Directory)
    }


@pytest.mark.skipif(not shutil.which("apt-config"), reason="apt is not installed")
@pytest.mark.parametrize("enabled", [True, False])
def test_apt_reads_the_settings(tmp_path: Path, enabled: bool) -> None:
    (tmp_path / "50").write_text('Unattended-Upgrade::Allowed-Origins { "Debian:all"; };\n')
    (tmp_path / "52").write_text(files(steps(with_packages(tmp_path, security_updates=enabled)))[APT])
    (tmp_path / "apt.conf").write_text(f'#include "{tmp_path}/50";\n#include "{tmp_path}/52";\n')
    done = subprocess.run(
        ["apt-config", "dump"],
        env={**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'APT::Periodic::Unattended-Upgrade "{"always" if enabled else "0"}";' in done.stdout
    assert ("Debian:all" in done.stdout) is not enabled, "the origins of the package are replaced"
    assert ('Unattended-Upgrade::Package-Blacklist:: "postgresql-[0-9]+$";' in done.stdout) is enabled


SIMULATED = """Inst libc6 [2.36-9] (2.36-9+deb12u1 Debian:12.1/stable [amd64])
Inst openssl [3.0.1] (3.0.2 Debian-Security:12/stable-security [amd64]) []
Inst postgresql-15 [15.1] (15.2 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [amd64])
Conf openssl (3.0.2 Debian-Security:12/stable-security [amd64])
"""


def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int = 60) -> Result:
    """Run the probe with the simulated upgrade, and package lists of this age in seconds."""
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\ncat <<'X'\n{SIMULATED}X\n")
    (tmp_path / "stat").write_text(f"#!/bin/sh\necho {int(time.time()) - age}\n")
    for name in ("apt-get", "stat"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = LocalHost().run(PROBE)
    assert found.ok
    # This machine may have updates of its own to finish.
    return replace(found, stdout=b"".join(x for x in found.stdout.splitlines(True) if not x.startswith(b"stale")))


def test_probe_lists_security_updates_of_debian_and_ubuntu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parse("c", probe(tmp_path, monkeypatch), unattended=True)
    assert found.pending == ["openssl", "postgresql-15"]
    assert 60 <= found.list_age < 120
    assert found.by_hand == ["postgresql-15"]
    assert not found.ok
    assert str(found) == "security updates are pending: openssl, postgresql-15"
    assert list(found.remedies()) == ["homelab ssh c -- apt-get -q -y install --only-upgrade postgresql-15"]


@pytest.mark.parametrize(
    ("level", "ok", "text", "remedies"),
    [
        (PatchLevel("c", [], [], 60, True), True, "no security update is pending", []),
        (PatchLevel("c", ["openssl"], [], 60, True), True, "security updates are pending: openssl", []),
        (
            PatchLevel("c", ["openssl"], [], 60, False),
            False,
            "security updates are pending: openssl",
            ["homelab ssh c -- apt-get -q -y install --only-upgrade openssl"],
        ),
        (
            PatchLevel("c", [], ["postgres", "systemd"], 60, True),
            False,
            "a restart is due: postgres, systemd use replaced files",
            ["homelab ssh c -- systemctl reboot"],
        ),
        (
            PatchLevel("c", [], [], 4 * 86400, True),
            False,
            "its package lists are 4 days old",
            ["homelab ssh c -- apt-get -q update"],
        ),
    ],
)
def test_report_names_what_is_left_to_do(level: PatchLevel, ok: bool, text: str, remedies: list[str]) -> None:
    assert (level.ok, str(level), list(level.remedies())) == (ok, text, remedies)


@pytest.mark.parametrize("line", ["pending a; curl x | sh", "pending $(id)", "pending -o=x", "lists x", "", "other"])
def test_container_cannot_put_a_command_into_the_remedies(line: str) -> None:
    with pytest.raises(HomelabError, match="unexpected format"):
        parse("c", Result("", 0, f"{line}\n".encode()), unattended=False)


def test_only_containers_that_were_reached_before_are_inspected(tmp_path: Path) -> None:
    session = make_session(inventory(tmp_path), progress=SilentProgress())
    assert patch_levels(session) == {}


def test_stale_program_is_found(tmp_path: Path) -> None:
    """A program that runs a file which an upgrade has replaced; here the pattern looks elsewhere than in /usr."""
    program = tmp_path / "replaced"
    shutil.copy("/bin/sleep", program)
    running = subprocess.Popen([str(program), "60"])
    try:
        program.unlink()
        text = patch_level.PROBE.replace("/usr/", f"{tmp_path}/")
        found = LocalHost().run(text[text.index("for maps") :])
    finally:
        running.kill()
        running.wait()
    assert found.text == "stale replaced"


class Connected(LocalHost):
    """A connection to this machine."""

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        """See Connection."""


def test_each_reached_container_has_a_level_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, known_hosts = inventory(tmp_path), KnownHosts.of(tmp_path)
    for name in ("postgres-data", "analytics-platform"):
        known_hosts.pin(name, Pin("SHA256:x"))
    probe(tmp_path, monkeypatch)

    def connect(container: Container, *_: object) -> Connected:
        if container.name == "analytics-platform":
            raise HomelabError("Cannot connect to analytics-platform: no answer over SSH", "", "")
        return Connected(container.name)

    found = patch_levels(make_session(wanted, known_hosts, connector=connect))
    assert list(found) == ["postgres-data", "analytics-platform"]
    assert isinstance(found["analytics-platform"], HomelabError)
    level = found["postgres-data"]
    assert isinstance(level, PatchLevel)
    assert level.pending == ["openssl", "postgresql-15"]
