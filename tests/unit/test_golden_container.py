"""What golden containers and their clones say of themselves."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import date

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


def test_a_golden_container_is_known_again_by_its_description() -> None:
    said = GOLDEN.description("home")
    assert golden_container.read(said + "\n") == GOLDEN
    assert "homelab bake --delete analytics-platform" in said
    # Where it is, is not written down: it is where it is found.
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
def test_nothing_else_is(text: str) -> None:
    assert golden_container.read(text) is None


@pytest.mark.parametrize(
    ("of", "name"), [("db", "golden-db"), ("x" * 63, "golden-" + "x" * 56), ("y" * 55 + "-yyy", "golden-" + "y" * 55)]
)
def test_its_name_is_a_host_name(of: str, name: str) -> None:
    assert golden_container.host_name(of) == name


def test_a_clones_description() -> None:
    made = description_metadata.with_source("What it is.", GOLDEN.template, date(2026, 11, 23))
    text = description_metadata.with_unfinished_mark(
        description_metadata.with_clone_source(made, GOLDEN.of, GOLDEN.made), KEY
    )
    assert (
        description_metadata.unfinished(text),
        description_metadata.source(text),
        description_metadata.is_clone(text),
    ) == (KEY, GOLDEN.template, True)
    assert description_metadata.strip(text) == "What it is."
    assert description_metadata.carry_over("What it is now.", text).endswith(text.removeprefix("What it is."))
    whole = description_metadata.without_unfinished_mark(text)
    assert (
        description_metadata.unfinished(whole),
        description_metadata.source(whole),
        description_metadata.is_clone(whole),
    ) == (None, GOLDEN.template, True)
    assert description_metadata.without_unfinished_mark(whole) == whole


@pytest.mark.parametrize("script", [PREPARE, TAKE, RESTARTED, WHOLE])
def test_what_is_run_in_a_clone_is_shell(script: str) -> None:
    subprocess.run(["sh", "-n"], input=script.encode(), check=True, capture_output=True)


def test_the_key_that_is_shown_changes_last() -> None:
    # Whoever sees the new key has to know that all the rest is done.
    assert TAKE.index("/etc/machine-id") < TAKE.index("mv -f ssh_host_ed25519_key ")
    moved = [line.strip() for line in TAKE.splitlines() if "mv -f" in line]
    assert moved[-1] == "mv -f ssh_host_ed25519_key /etc/ssh/"
