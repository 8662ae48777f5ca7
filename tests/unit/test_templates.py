"""Templates: names, the newest version, and the record in a container's description."""

from __future__ import annotations

from datetime import date

import pytest

from homelab.plan.template import Template, is_same_template
from homelab.proxmox import description_metadata
from homelab.proxmox.templates import fitting, newest

VOLUME = "local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst"
DAY = date(2026, 11, 23)
LINE = f"Created from {VOLUME} on 2026-11-23."


@pytest.mark.parametrize(
    ("template", "volume", "same"),
    [
        ("debian-12", VOLUME, True),
        ("debian-12", "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst", True),  # an older one is no other
        ("debian-13", VOLUME, False),
        ("ubuntu-24.04", VOLUME, False),
        ("debian-12", "local:vztmpl/my-own_1_amd64.tar.zst", False),
        (VOLUME, VOLUME, True),
        ("nas:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst", VOLUME, True),  # the same file on another storage
        ("local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst", VOLUME, False),
    ],
)
def test_template_name_stands_for_a_volume(template: str, volume: str, same: bool) -> None:
    assert is_same_template(template, volume) is same


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_12.7-1_amd64.tar.zst", "a_12.12-1_amd64.tar.zst", "a_12.2-1_amd64.tar.zst"], "a_12.12-1_amd64.tar.zst"),
        (
            ["local:vztmpl/a_24.04-2_amd64.tar.zst", "local:vztmpl/a_24.04-10_amd64.tar.zst"],
            "local:vztmpl/a_24.04-10_amd64.tar.zst",
        ),
        ([], None),
    ],
)
def test_newest_version(names: list[str], expected: str | None) -> None:
    assert newest(names) == expected


def test_templates_of_another_architecture_do_not_fit() -> None:
    names = ["a_1_amd64.tar.zst", "a_1_arm64.tar.zst", "a_own.tar.gz"]
    assert fitting(names, "amd64") == ["a_1_amd64.tar.zst", "a_own.tar.gz"]
    assert fitting(names, "arm64") == ["a_1_arm64.tar.zst", "a_own.tar.gz"]


def test_template_as_text() -> None:
    assert str(Template("pve", VOLUME)) == "debian-12-standard_12.12-1_amd64.tar.zst"
    assert str(Template("pve", VOLUME, missing=True)).endswith(".tar.zst, downloaded to local first")


@pytest.mark.parametrize("text", ["", "Weather data.", "Weather data.\n\n* made by homelab\n* see the inventory"])
def test_record_round_trips(text: str) -> None:
    written = description_metadata.with_source(text, VOLUME, DAY)
    assert written.splitlines()[-1] == LINE
    assert description_metadata.source(written + "\n") == VOLUME
    assert description_metadata.strip(written + "\n") == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"Old.\n\n{LINE}\n", f"New.\n\n{LINE}"),
        (f"{LINE}\nwith something below\n", f"New.\n\n{LINE}"),
        ("Old.\n", "New."),
        ("", "New."),
    ],
)
def test_new_description_keeps_the_record(before: str, after: str) -> None:
    assert description_metadata.carry_over("New.", before) == after


def test_similar_text_is_no_record() -> None:
    text = "It was Created from love on 2026-11-23.\nCreated from scratch."
    assert description_metadata.source(text) is None
    assert description_metadata.strip(text) == text
