"""The descriptions of golden containers and their clones."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from homelab.plan import golden_container
from homelab.proxmox import description_metadata
from homelab.runtime.clone_identity import PREPARE, RESTARTED, TAKE, WHOLE

KEY = "SHA256:" + "k" * 43
GOLDEN = golden_container.GoldenContainer(
    of="analytics-platform",
    made="2026-11-23T08:15:00Z",
    fingerprint=KEY,
    template="local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
)


def test_description_of_a_golden_container_round_trips() -> None:
    text = GOLDEN.description("home")
    assert golden_container.read(text + "\n") == GOLDEN
    assert "homelab golden delete analytics-platform" in text
    # The description does not contain the location.
    assert golden_container.read(replace(GOLDEN, vmid=900, node="pve").description("home")) == GOLDEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "analytics-platform of the homelab `home`",
        GOLDEN.description("home")[1:],
        GOLDEN.description("home").replace(KEY, "SHA256:short"),
    ],
)
def test_other_descriptions_are_not_golden(text: str) -> None:
    assert golden_container.read(text) is None


@pytest.mark.parametrize(
    ("of", "name"), [("db", "golden-db"), ("x" * 63, "golden-" + "x" * 56), ("y" * 55 + "-yyy", "golden-" + "y" * 55)]
)
def test_host_name_fits_the_length_limit(of: str, name: str) -> None:
    assert golden_container.host_name(of) == name


def test_description_of_a_clone_until_it_is_finished() -> None:
    made = description_metadata.with_source("A text.", GOLDEN.template, date(2026, 11, 23))
    text = description_metadata.with_unfinished_mark(
        description_metadata.with_clone_source(made, GOLDEN.of, GOLDEN.made), KEY
    )
    assert (
        description_metadata.unfinished(text),
        description_metadata.source(text),
        description_metadata.is_clone(text),
    ) == (KEY, GOLDEN.template, True)
    assert description_metadata.strip(text) == "A text."
    assert description_metadata.carry_over("New text.", text).endswith(text.removeprefix("A text."))
    whole = description_metadata.without_unfinished_mark(text)
    assert (
        description_metadata.unfinished(whole),
        description_metadata.source(whole),
        description_metadata.is_clone(whole),
    ) == (None, GOLDEN.template, True)
    assert description_metadata.without_unfinished_mark(whole) == whole


@pytest.mark.parametrize("script", [PREPARE, TAKE, RESTARTED, WHOLE])
def test_clone_scripts_are_valid_shell(script: str) -> None:
    subprocess.run(["sh", "-n"], input=script.encode(), check=True, capture_output=True)


WRAPPER = """#!/bin/sh
{real} "$@"; status=$?
echo >>{count}; [ "$(wc -l <{count})" -lt {number} ] || kill -9 $PPID
exit $status
"""


def run_take_killed_at(folder: Path, number: int) -> bool:
    """Run TAKE below a folder, killed after that many programs; return False if it completed before."""
    files = {
        "etc/machine-id": "old",
        "var/lib/dbus/machine-id": "old",
        "root/.bash_history": "old",
        "var/log/app.log": "old",
        "var/log/app.log.1": "old",
        "run/keep": "",
    }
    for kind in ("ecdsa", "ed25519", "rsa"):
        for suffix in ("", ".pub"):
            files |= {
                f"etc/ssh/ssh_host_{kind}_key{suffix}": "old",
                f"etc/ssh/homelab-new/etc/ssh/ssh_host_{kind}_key{suffix}": "new",
            }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("mv", "rm", "find", "sync", "apt-get"):
        real = "true" if tool in ("sync", "apt-get") else shutil.which(tool)
        (tools / tool).write_text(WRAPPER.format(real=real, count=tools / "count", number=number))
        (tools / tool).chmod(0o755)
    script = re.sub(r"(?<![\w.])/(etc|var|root|run|usr)/", rf"{folder}/\1/", TAKE)
    done = subprocess.run(
        ["sh"], input=script.encode(), env={"PATH": f"{tools}:{os.defpath}"}, check=False, capture_output=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def test_new_host_key_is_presented_only_after_all_other_changes(tmp_path: Path) -> None:
    presented, number, killed = [], 0, True
    while killed:
        number += 1
        folder = tmp_path / str(number)
        killed = run_take_killed_at(folder, number)
        presented.append((folder / "etc/ssh/ssh_host_ed25519_key").read_text())
        if presented[-1] == "new":
            assert {file.read_text() for file in (folder / "etc/ssh").glob("ssh_host_*")} == {"new"}
            assert (folder / "etc/machine-id").read_text() == (folder / "var/log/app.log").read_text() == ""
            assert (folder / "run/homelab-restart").exists()
            for name in ("var/lib/dbus/machine-id", "root/.bash_history", "var/log/app.log.1"):
                assert not (folder / name).exists()
    assert presented[0] == "old"
    assert presented[-1] == "new"
    assert number > 10, "too few programs were interrupted"
