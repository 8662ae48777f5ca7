"""The audit log: every change, before it is sent and after it; nothing secret; only ever added to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from homelab.errors import HomelabError
from homelab.proxmox.audit import redacted
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site


def noted(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.inventory.state_dir / "audit.log").read_text().splitlines()]


def changes(site: Site) -> list[str]:
    return sorted(call for call in site.pve.calls() if not call.startswith("GET"))


def test_every_change_is_noted_and_nothing_else(site: Site) -> None:
    site.up()
    site.overlaid("network: {nameservers: [.1]}\ndefaults: {disk: 20}").up()
    site.destroy()
    lines = noted(site)
    sent = [line for line in lines if line["result"] == "sent"]
    assert sorted(f"{line['method']} {line['path']}" for line in sent) == changes(site)
    assert {line["who"] for line in sent} == {TOKEN}
    answers = {line["id"]: line for line in lines if "id" in line and line["result"] != "sent"}
    assert answers.keys() == {line["id"] for line in sent}
    # What started a task has its UPID, and the UPID's end.
    upids = {line["upid"] for line in answers.values() if line["upid"]}
    ends = {line["upid"]: line["result"] for line in lines if "id" not in line}
    assert upids <= ends.keys()
    assert set(ends.values()) == {"OK"}
    assert {task["upid"] for task in site.pve.tasklog} == ends.keys()
    assert all(line["time"].endswith("+00:00") for line in lines)
    create = next(line for line in sent if line["method"] == "POST" and line["path"].endswith("/lxc"))
    assert create["parameters"]["vmid"] in (167, 168, 169)
    assert create["parameters"]["ssh-public-keys"].startswith("ssh-ed25519 ")


def test_it_is_private_has_no_secret_and_is_added_to(site: Site) -> None:
    site.up("postgres-data")
    path = site.inventory.state_dir / "audit.log"
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    site.up("analytics-platform")
    assert path.read_text().startswith(before)
    assert len(path.read_text()) > len(before)
    assert SECRET not in path.read_text()
    seen = path.read_text()
    site.up()
    site.up()
    assert path.read_text().count('"method": "POST"') == seen.count('"method": "POST"') + 2


def test_a_refused_change_is_noted_with_its_reason(site: Site) -> None:
    site.pve.lose_quorum()
    with pytest.raises(HomelabError):
        site.up("postgres-data")
    sent, refused = noted(site)
    assert (sent["result"], refused["id"]) == ("sent", sent["id"])
    assert "no quorum" in refused["result"]


def test_without_a_log_nothing_is_changed(site: Site) -> None:
    (site.inventory.state_dir / "audit.log").mkdir(parents=True)
    with pytest.raises(HomelabError, match="The audit log cannot be written") as caught:
        site.up("postgres-data")
    assert "Is a directory" in caught.value.details
    assert changes(site) == []


def test_secrets_are_redacted_by_name() -> None:
    given = {
        "password": "a",
        "cipassword": "b",
        "secret": "c",
        "token": "d",
        "key": "e",
        "ssh-public-keys": "f",
        "memory": 1,
    }
    assert redacted(given) == {
        "password": "***",
        "cipassword": "***",
        "secret": "***",
        "token": "***",
        "key": "***",
        "ssh-public-keys": "f",
        "memory": 1,
    }
