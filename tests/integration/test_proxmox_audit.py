"""The audit log: every change before and after it is sent, no secrets, append-only."""

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


def logged(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.inventory.state_dir / "audit.log").read_text().splitlines()]


def changes(site: Site) -> list[str]:
    return sorted(call for call in site.pve.calls() if not call.startswith("GET"))


def test_log_has_every_change_and_no_reads(site: Site) -> None:
    site.up()
    site.overlaid("network: {nameservers: [.1]}\ndefaults: {disk: 20}").up()
    site.destroy()
    lines = logged(site)
    sent = [line for line in lines if line["result"] == "sent"]
    assert sorted(f"{line['method']} {line['path']}" for line in sent) == changes(site)
    assert {line["who"] for line in sent} == {TOKEN}
    answers = {line["id"]: line for line in lines if "id" in line and line["result"] != "sent"}
    assert answers.keys() == {line["id"] for line in sent}
    # A call that started a task has its UPID, and the UPID has an exit status.
    upids = {line["upid"] for line in answers.values() if line["upid"]}
    ends = {line["upid"]: line["result"] for line in lines if "id" not in line}
    assert upids <= ends.keys()
    assert set(ends.values()) == {"OK"}
    assert {task["upid"] for task in site.pve.tasklog} == ends.keys()
    assert all(line["time"].endswith("+00:00") for line in lines)
    create = next(line for line in sent if line["method"] == "POST" and line["path"].endswith("/lxc"))
    assert create["parameters"]["vmid"] in (167, 168, 169)
    assert create["parameters"]["ssh-public-keys"].startswith("ssh-ed25519 ")


def test_log_is_private_append_only_and_without_secrets(site: Site) -> None:
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


def test_refused_change_is_logged_with_its_cause(site: Site) -> None:
    site.pve.lose_quorum()
    with pytest.raises(HomelabError):
        site.up("postgres-data")
    sent, refused = logged(site)
    assert (sent["result"], refused["id"]) == ("sent", sent["id"])
    assert "no quorum" in refused["result"]


def test_nothing_is_changed_without_a_writable_log(site: Site) -> None:
    (site.inventory.state_dir / "audit.log").mkdir(parents=True)
    with pytest.raises(HomelabError, match="Cannot write the audit log") as caught:
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
