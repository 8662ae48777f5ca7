"""Drop-ins by hand: those that cannot weaken a unit stay, all others are named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from homelab.sandbox import Sandbox
from homelab.steps.drop_ins import drop_ins, overrides

FILE = "/etc/systemd/system/u.service.d/o.conf"
SANDBOX = Sandbox("u", ("/var/lib/u", "/var/log/u"), ("/etc/homelab/u.env",))
HEAD = "# A=b\n[Unit]\nAfter=network-online.target\n[Service]\nExecStart=/bin/u\nRestart=always\n"
UNIT = HEAD + "\n".join(SANDBOX.lines)
OURS = {"/etc/systemd/system/u.service": UNIT}
HARMLESS = [
    "# User=root",
    "; User=root",
    "[Service]\nEnvironment=LANG=C",
    "Environment=A=1 'B=2' \"C=3\"",
    "Environment=A=1 \\\n  B=2",
    "Environment = HOMEPAGE=x",
    "Description=mine",
    "After=other.service",
    "Wants=other.service",
    "MemoryMax=1G",
    "LimitNOFILE=65536",
    "ExecStartPre=/bin/true",
    "ExecStartPost=-/bin/true",
    "MemoryDenyWriteExecute=yes",
    "User=u",
    "NoNewPrivileges=true",
    "ProtectHome=on",
    "ReadWritePaths=/var/log/u",
    "CapabilityBoundingSet=",
    "SystemCallFilter=~@mount",
    "RestrictAddressFamilies=AF_INET",
    "InaccessiblePaths=/srv",
]
NAMED = {
    "User=root": "overrides User",
    " User = root": "overrides User",
    "Group=\\\n  root": "overrides Group",
    "# comment \\\nUser=root": "overrides User",
    "Environment=": "overrides Environment",
    "Environment=HOME=/root": "overrides Environment",
    'Environment=A=1 "HOME=/root"': "overrides Environment",
    "EnvironmentFile=/srv/more.env": "overrides EnvironmentFile",
    "After=": "overrides After",
    "ExecStart=/bin/other": "overrides ExecStart",
    "ExecStart=": "overrides ExecStart",
    "ReadWritePaths=/": "overrides ReadWritePaths",
    "NoNewPrivileges=no": "overrides NoNewPrivileges",
    "ProtectSystem=full": "overrides ProtectSystem",
    "SystemCallFilter=@mount": "overrides SystemCallFilter",
    "SystemCallFilter=": "overrides SystemCallFilter",
    "CapabilityBoundingSet=CAP_SYS_ADMIN": "overrides CapabilityBoundingSet",
    "AmbientCapabilities=CAP_SYS_ADMIN": "overrides AmbientCapabilities",
    "RestrictAddressFamilies=AF_PACKET": "overrides RestrictAddressFamilies",
    "UMask=0": "overrides UMask",
    "ExecStartPre=+/bin/sh": "weakens the unit with ExecStartPre",
    "ExecStop=-!/bin/sh": "weakens the unit with ExecStop",
    "SupplementaryGroups=root": "weakens the unit with SupplementaryGroups",
    "BindPaths=/etc": "weakens the unit with BindPaths",
    "StateDirectory=homelab": "weakens the unit with StateDirectory",
    "UnsetEnvironment=PGSSLMODE": "weakens the unit with UnsetEnvironment",
    "User=root\nUMask=0\nPAMName=login\nMemoryMax=1G": f"overrides User, UMask; {FILE} weakens the unit with PAMName",
}


def found(text: str, path: str = FILE) -> str:
    return "; ".join(overrides("".join(f"{path}:{line}\n" for line in text.splitlines()), OURS))


@pytest.mark.parametrize("text", HARMLESS)
def test_drop_in_that_cannot_weaken_the_unit_stays(text: str) -> None:
    assert found(text) == ""


@pytest.mark.parametrize(("text", "named"), NAMED.items())
def test_drop_in_that_overrides_or_weakens_the_unit_is_named(text: str, named: str) -> None:
    assert found(text) == f"{FILE} {named}"


def test_file_of_homelab_is_no_override() -> None:
    assert overrides(f"{next(iter(OURS))}.d/homelab.conf:User=x\n", {f"{next(iter(OURS))}.d/homelab.conf": UNIT}) == []


def test_unit_without_a_file_of_homelab_keeps_every_drop_in() -> None:
    assert overrides(f"{FILE}:User=x\n{FILE}:BindPaths=/srv\n", {}) == []


def test_every_line_of_every_file_in_etc_is_read(tmp_path: Path) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\necho /etc/hostname /etc/passwd /run/x.conf /etc/missing.conf\n")
    systemctl.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", f"PATH={tmp_path}:$PATH; {drop_ins('u.service')}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("/etc/hostname:")
    assert "/etc/passwd:root:" in done.stdout
    assert "\n/run" not in done.stdout
