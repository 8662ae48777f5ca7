"""Templates: the newest on the node, or else one download; the template recorded in a container's description."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from homelab.commands.doctor import doctor
from homelab.commands.plan import preview
from homelab.commands.up import up
from homelab.errors import HomelabError
from homelab.plan import Create, Plan
from homelab.plan.template import Template
from homelab.progress import TerminalProgress
from homelab.proxmox import Client, downloads
from homelab.proxmox.checks import Check
from homelab.proxmox.templates import Templates
from tests.integration.test_proxmox_kill import scene
from tests.integration.test_proxmox_recovery import assert_next_run_completes, fails
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.recorded import replaying
from tests.support import make_session

ONE = "postgres-data"
UBUNTU = "ubuntu-24.04-standard_24.04-2_amd64.tar.zst"
VOLUME = f"local:vztmpl/{UBUNTU}"


def forget_templates(site: Site) -> None:
    site.pve.storages["local"]["volumes"].clear()


@pytest.fixture
def bare(site: Site) -> Site:
    """A node without templates."""
    forget_templates(site)
    return site


def downloaded(site: Site) -> list[str]:
    return [task["id"] for task in site.pve.tasklog if task["type"] == "download"]


def chosen(site: Site, template: str) -> Template:
    container = replace(site.inventory.containers[0], template=template)
    return Templates(Client(site.inventory.endpoint)).of(container, "pve")


# ------------------------------------------------------------------ the choice


@pytest.mark.parametrize(
    ("name", "answers", "volume"),
    [
        ("debian-12", ["templates", "node_status"], "debian-12-standard_12.7-1_amd64.tar.zst"),
        ("local:vztmpl/tiny-1_amd64.tar.gz", ["templates"], "tiny-1_amd64.tar.gz"),
    ],
)
def test_recorded_templates(
    site: Site, pair: tuple[tuple[str, str], str], name: str, answers: list[str], volume: str
) -> None:
    with replaying(answers, pair[0]) as (port, _):
        endpoint = replace(site.inventory.endpoint, port=port)
        container = replace(site.inventory.containers[0], template=name)
        assert Templates(Client(endpoint)).of(container, "pve") == Template("pve", f"local:vztmpl/{volume}")


@pytest.mark.parametrize(
    ("there", "template", "machine", "expected"),
    [
        # A template on the node takes precedence over a newer one in the list.
        (
            ["debian-12-standard_12.7-1_amd64.tar.zst", "debian-12-standard_12.12-1_amd64.tar.zst"],
            "debian-12",
            "x86_64",
            "debian-12-standard_12.12-1_amd64.tar.zst",
        ),
        (["debian-12-standard_12.7-1_amd64.tar.zst"], "debian-12", "x86_64", "debian-12-standard_12.7-1_amd64.tar.zst"),
        (
            ["debian-12-standard_12.7-1_amd64.tar.zst", "debian-12-standard_12.2-1_arm64.tar.zst"],
            "debian-12",
            "aarch64",
            "debian-12-standard_12.2-1_arm64.tar.zst",
        ),
        (
            ["debian-12-standard_12.7-1_arm64.tar.zst"],
            "debian-12",
            "x86_64",
            "debian-12-standard_12.12-1_amd64.tar.zst, downloaded to local first",
        ),
        # Otherwise the newest in the list, of the distribution itself and for the node's architecture.
        ([], "debian-12", "x86_64", "debian-12-standard_12.12-1_amd64.tar.zst, downloaded to local first"),
        ([], "debian-12", "aarch64", "debian-12-standard_12.13-1_arm64.tar.zst, downloaded to local first"),
        ([], "ubuntu-24.04", "x86_64", f"{UBUNTU}, downloaded to local first"),
        (
            [],
            "local:vztmpl/debian-12-standard_12.2-1_amd64.tar.zst",
            "x86_64",
            "debian-12-standard_12.2-1_amd64.tar.zst, downloaded to local first",
        ),
    ],
)
def test_newest_existing_or_else_downloadable_template(
    bare: Site, there: list[str], template: str, machine: str, expected: str
) -> None:
    bare.pve.machine = machine
    for name in there:
        bare.pve.store_file("local", name, 1000, content="vztmpl")
    assert str(chosen(bare, template)) == expected


@pytest.mark.parametrize(
    ("template", "machine"), [("debian-13", "aarch64"), ("local:vztmpl/my-own_1_amd64.tar.zst", "x86_64")]
)
def test_unavailable_template(bare: Site, template: str, machine: str) -> None:
    bare.pve.machine = machine
    with pytest.raises(HomelabError, match="has no template for") as caught:
        chosen(bare, template)
    assert "`pveam update`" in caught.value.resolution


def test_storage_without_templates_is_refused_before_any_change(bare: Site) -> None:
    bare.pve.storages["local"]["content"] = "iso,backup"
    error = fails(bare)
    assert "storage local does not accept templates" in error.brief
    assert "pvesm set local --content iso,backup,vztmpl" in error.resolution
    assert {call.split()[0] for call in bare.pve.calls()} == {"GET"}


def test_shared_template_is_downloaded_once(site: Site) -> None:
    def plan(*templates: Template) -> Plan:
        return Plan(tuple(Create(site.inventory.containers[0], template) for template in templates))

    one, other = Template("pve", VOLUME, missing=True), Template("pve2", VOLUME, missing=True)
    assert downloads.missing(plan(one, one, other, Template("pve3", VOLUME))) == [one, other]
    shared = [replace(template, shared=True) for template in (one, other)]
    assert len(downloads.missing(plan(*shared))) == 1


# ---------------------------------------------------------------- the download


def test_three_containers_need_one_download(bare: Site) -> None:
    out = io.StringIO()
    bare.pve.time_scale, bare.pve.download_secs = 0.1, 8.0
    bare.pve.ct_secs |= {"create": 0.5, "start": 0.5}
    progress = TerminalProgress(Console(file=out, width=200, force_terminal=False), interval=0)
    outcome = up(make_session(bare.inventory, bare.known_hosts, progress), confirm=bare._confirm)
    assert [lines[0].rpartition(", ubuntu")[2] for lines in outcome.done.values()] == [
        f"{UBUNTU.removeprefix('ubuntu')}, downloaded to local first"
    ] * 3
    assert downloaded(bare) == [UBUNTU]
    assert bare.pve.kinds()[0] == "download"
    assert {ct.config["hostname"] for ct in bare.pve.cts} == set(NAMES)
    shown = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    percents = [
        int(match[1])
        for line in shown
        if (match := re.fullmatch(rf"· pve download {re.escape(UBUNTU)} to local: (\d+) %", line))
    ]
    assert percents
    assert percents == sorted(set(percents))
    assert sum(line.startswith(f"✓ pve download {UBUNTU} to local") for line in shown) == 1
    bare.pve.requests.clear()
    assert not bare.up()
    assert len(bare.pve.requests) <= 5, bare.pve.calls()
    bare.destroy(ONE)
    bare.up(ONE)
    assert downloaded(bare) == [UBUNTU]


def test_plan_names_the_download_and_changes_nothing(bare: Site) -> None:
    progress = TerminalProgress(Console(file=io.StringIO()))
    seen = preview(make_session(bare.inventory, bare.known_hosts, progress), limit=[ONE])
    assert [line.change.endswith(f"{UBUNTU}, downloaded to local first") for line in seen.up] == [True]
    assert {call.split()[0] for call in bare.pve.calls()} == {"GET"}


def start_download(site: Site, seconds: float = 0.5) -> None:
    """Start a download, as left by a run that was killed right afterwards."""
    site.pve.time_scale, site.pve.download_secs = 1.0, seconds
    site.pve.ct_secs |= {"create": 0.05, "start": 0.05}
    Client(site.inventory.endpoint).post("nodes/pve/aplinfo", storage="local", template=UBUNTU)


def test_running_download_is_waited_for(bare: Site) -> None:
    start_download(bare)
    assert_next_run_completes(bare)
    assert downloaded(bare) == [UBUNTU]


def test_failed_download_of_an_earlier_run_is_repeated(bare: Site) -> None:
    bare.pve.breaking = 1
    start_download(bare)
    assert_next_run_completes(bare)
    assert downloaded(bare) == [UBUNTU] * 2


def test_killed_after_every_call_of_the_download(
    tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    with scene(tmp_path / "lab", pair) as place:
        place.pve.download_secs = 0.1
        at, hit = "", []
        while at != "POST /nodes/pve/lxc":
            for there in (place.pve.cts, place.pve.keys, place.pve.tasklog, place.pve.storages["local"]["volumes"]):
                there.clear()
            place.pins.forget(ONE)
            place.run("up", ONE, deadly=len(hit) + 1, acts=True)
            hit.append(at := place.pve.hit)
            place.succeeds("up", ONE)
            assert place.did() == {
                ("download", UBUNTU, "OK"): 1,
                ("vzcreate", "167", "OK"): 1,
                ("vzstart", "167", "OK"): 1,
            }, hit
        assert hit.count("POST /nodes/pve/aplinfo") == 1


def test_lost_answer_is_checked(bare: Site) -> None:
    bare.pve.losing["POST", "/aplinfo"] = 1
    assert_next_run_completes(bare)
    assert downloaded(bare) == [UBUNTU]


def test_node_without_internet(bare: Site) -> None:
    bare.pve.internet = False
    error = fails(bare)
    assert error.brief == f"Cannot download {UBUNTU} to local: its task failed"
    assert "download failed: wget: unable to resolve host address 'download.proxmox.com'" in error.details
    assert "reaches the internet" in error.resolution
    assert downloaded(bare) == [UBUNTU]
    assert bare.pve.cts == []
    bare.pve.internet = True
    assert_next_run_completes(bare)


def test_token_without_the_download_privilege(bare: Site) -> None:
    bare.pve.grant_least(bare.inventory, without="Datastore.AllocateTemplate")
    error = fails(bare)
    assert "Datastore.AllocateTemplate" in error.resolution
    assert bare.pve.cts == []


def test_doctor_announces_the_download(bare: Site) -> None:
    def check() -> Check:
        diagnosis = doctor(bare.inventory, ask=lambda pipeline, key: 200)
        return next(check for check in diagnosis.checks if check.name == "template ubuntu-24.04 on pve")

    assert (check().ok, check().said) == (True, f"`homelab up` will download {UBUNTU} to local")
    bare.pve.grant_least(bare.inventory, without="Datastore.AllocateTemplate")
    assert "Datastore.AllocateTemplate on /storage/local is missing" in check().said
    assert [line.partition(" --")[0] for line in check().todo] == [
        "pveum role add HomelabTemplates 2>/dev/null; pveum role modify HomelabTemplates",
        "pveum acl modify /storage/local",
        f"or, without that privilege: pveam download local {UBUNTU}",
    ]
    bare.pve.store_file("local", UBUNTU, 1000, content="vztmpl")
    assert (check().ok, check().said) == (True, VOLUME)


# ------------------------------------------------------------------ the record


def description(site: Site, vmid: int = 167) -> str:
    return str(site.pve.ct(vmid).config["description"])


def test_template_is_recorded_in_the_description_and_kept(site: Site) -> None:
    site.up()
    for vmid in (167, 168, 169):
        assert re.fullmatch(rf"(?s).+\n\nCreated from {VOLUME} on 20\d\d-\d\d-\d\d\.\s*", description(site, vmid))
    assert not site.up()
    line = description(site).strip().splitlines()[-1]
    site.pve.ct(167).config["description"] = f"Something else.\n\n{line}\n"
    site.pve.ct(168).config["description"] = "Edited by hand, without the record.\n"
    assert sorted(site.up().done) == ["analytics-platform", ONE]
    assert "Something else" not in description(site)
    assert description(site).strip().splitlines()[-1] == line
    assert "Created from" not in description(site, 168)
    assert not site.up()


def test_newer_template_is_no_drift(site: Site) -> None:
    site.up()
    site.pve.store_file("local", "ubuntu-24.04-standard_24.04-3_amd64.tar.zst", 1000, content="vztmpl")
    assert not site.up()
    site.destroy(ONE)
    site.up(ONE)
    assert "24.04-3_amd64" in description(site)
    assert not site.up()


OTHER = """
containers:
  postgres-data: {template: %s, services: {postgres: {version: 15}}}
"""


@pytest.mark.parametrize("template", ["debian-12", "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"])
def test_other_template_is_refused_with_a_resolution(site: Site, template: str) -> None:
    site.up()
    site.overlaid(OTHER % template)
    site.pve.requests.clear()
    error = fails(site)
    assert error.brief == "Cannot change the template of postgres-data: Proxmox uses it only at creation"
    assert (VOLUME in error.details, template in error.details) == (True, True)
    assert "Write `template: ubuntu-24.04` in the inventory" in error.resolution
    assert "homelab destroy --limit postgres-data" in error.resolution
    assert {call.split()[0] for call in site.pve.calls()} == {"GET"}
    # Follow the resolution:
    site.destroy(ONE)
    site.up()
    assert "Created from local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst" in description(site)


def test_container_without_a_record_is_accepted(site: Site) -> None:
    site.up()
    site.overlaid(OTHER % "debian-12")
    site.pve.ct(167).config["description"] = site.containers[ONE].shape.description + "\n"
    assert not site.up(ONE)
