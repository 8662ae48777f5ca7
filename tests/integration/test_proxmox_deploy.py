"""`deploy --rollback-on-failure` with an in-process node that saves and restores disk content in snapshots."""

from __future__ import annotations

import copy
import io
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.cli.results import to_json
from homelab.commands import snapshot
from homelab.errors import InputError
from homelab.progress import JsonProgress
from homelab.runtime.convergence import HostReport
from homelab.runtime.rollback import SNAPSHOT
from tests.integration.deployed import NEW, Disks, deploy
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_kill import Scene, scene
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import make_session

ONE = "postgres-data"
VMIDS = (167, 168, 169)


class Rig:
    """A site with running containers that have old content."""

    def __init__(self, site: Site) -> None:
        self.site, self.pve, self.said = site, site.pve, io.StringIO()
        site.up()
        self.disks = Disks(site.folder / "disks")
        for vmid in VMIDS:
            self.disks.put(vmid, "old\n")
        self.disks.behind(site.pve)
        self.begin()

    def begin(self) -> None:
        """Clear the recorded calls and tasks."""
        self.pve.requests.clear()
        self.pve.tasklog.clear()

    def deploy(self, *limit: str, rollback: bool = True) -> list[HostReport]:
        """Deploy and record the progress."""
        return list(
            deploy(self.site.inventory, self.disks, *limit, rollback=rollback, progress=JsonProgress(self.said))
        )

    def tasks(self) -> list[tuple[str, str]]:
        """Return the node's tasks, sorted."""
        return sorted((task["type"], task["id"]) for task in self.pve.tasklog)

    def notes(self) -> str:
        """Return the recorded notes."""
        return "\n".join(
            event["text"]
            for line in self.said.getvalue().splitlines()
            if (event := json.loads(line))["event"] == "note"
        )

    def snapshots(self) -> dict[int, list[str]]:
        """Return the existing snapshots by vmid."""
        return {ct.vmid: list(ct.snapshots) for ct in self.pve.cts if ct.snapshots}

    def left_by_a_killed_run(self, age: float = 0, *, noted: bool = True) -> None:
        """Create the state that a killed deploy of the first container leaves, with its snapshot."""
        snapshot.create(make_session(self.site.inventory, self.site.known_hosts), SNAPSHOT, limit=[ONE])
        self.pve.ct(167).snapshots[SNAPSHOT]["snaptime"] -= age
        if noted:
            (self.site.inventory.state_dir / "deploy-snapshots").write_text(f"{ONE}\n")
        self.disks.put(167, "half\n")
        self.begin()


@pytest.fixture
def rig(site: Site) -> Rig:
    return Rig(site)


def test_successful_deploy_removes_its_snapshot(rig: Rig) -> None:
    reports = rig.deploy()
    assert [(r.failure, r.rolled_back, len(r.changes)) for r in reports] == [(None, False, 2)] * 3
    assert [rig.disks.content(vmid) for vmid in VMIDS] == [NEW] * 3
    assert rig.tasks() == sorted((kind, str(vmid)) for vmid in VMIDS for kind in ("vzsnapshot", "vzdelsnapshot"))
    assert rig.snapshots() == {}
    rig.begin()
    assert [report.changes for report in rig.deploy()] == [[]] * 3
    assert rig.pve.requests == [], "nothing to change needs no call"


def test_only_changed_containers_get_a_snapshot(rig: Rig) -> None:
    rig.disks.put(168, NEW)
    rig.deploy()
    assert {vmid for _, vmid in rig.tasks()} == {"167", "169"}
    rig.disks.put(168, "old\n")
    rig.begin()
    rig.deploy(ONE)
    assert rig.pve.requests == []


def test_failed_container_is_rolled_back_and_others_are_kept(rig: Rig) -> None:
    rig.disks.mark(168, "broken")
    one, two, three = rig.deploy()
    assert (one.failure, three.failure) == (None, None)
    assert two.failure is not None
    assert two.rolled_back
    assert "it does not" in two.failure.details
    assert two.failure.details.splitlines()[-1].startswith("The container was rolled back to its state of ")
    assert to_json(two)["rolled_back"] is True
    assert [rig.disks.content(vmid) for vmid in VMIDS] == [NEW, "old\n", NEW]
    assert [task for task in rig.tasks() if task[0] == "vzrollback"] == [("vzrollback", "168")]
    assert sorted(path.name for path in rig.disks.root.glob("*.back")) == ["168.back"], "it was waited for"
    assert (rig.snapshots(), {ct.status for ct in rig.pve.cts}) == ({}, {"running"})
    assert [e["host"] for e in map(json.loads, rig.said.getvalue().splitlines()) if e["event"] == "rolled_back"] == [
        "analytics-platform"
    ]
    rig.disks.mark(168, "broken", there=False)
    assert [report.failure for report in rig.deploy()] == [None] * 3
    assert rig.disks.content(168) == NEW


@pytest.mark.parametrize("kind", ["dir", "nfs"])
def test_storage_without_snapshots_is_refused_before_any_change(rig: Rig, kind: str) -> None:
    rig.pve.storages["local-lvm"]["type"] = kind
    with pytest.raises(InputError, match=f"Cannot take a snapshot of {', '.join(NAMES)}") as caught:
        rig.deploy()
    assert f"rootfs of postgres-data is on local-lvm, of type {kind}" in caught.value.details
    assert "Deploy without `--rollback-on-failure`" in caught.value.resolution
    assert caught.value.exit_code == 2
    assert ([rig.disks.content(vmid) for vmid in VMIDS], rig.tasks()) == (["old\n"] * 3, [])


@pytest.mark.parametrize("privilege", ["VM.Snapshot", "VM.Snapshot.Rollback"])
def test_token_without_snapshot_privileges_is_refused(rig: Rig, privilege: str) -> None:
    rig.pve.grant_least(rig.site.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        rig.pve.grant(who, "/vms", *({"VM.Snapshot", "VM.Snapshot.Rollback"} - {privilege}))
    with pytest.raises(InputError, match="Cannot take snapshots: the token lacks a privilege") as caught:
        rig.deploy()
    assert f"--append 1 --privs {privilege}`" in caught.value.resolution
    assert (rig.disks.content(167), rig.tasks()) == ("old\n", [])
    for who in (TOKEN, TOKEN.partition("!")[0]):
        rig.pve.grant(who, "/vms", privilege)
    rig.disks.mark(167, "broken")
    assert [report.rolled_back for report in rig.deploy()] == [True, False, False]


def test_failed_snapshot_removes_the_others(rig: Rig) -> None:
    rig.pve.fail("POST", "/lxc/168/snapshot", 500, "out of space", times=1)
    with pytest.raises(Exception, match="it refused the call"):
        rig.deploy()
    assert ([rig.disks.content(vmid) for vmid in VMIDS], rig.snapshots()) == (["old\n"] * 3, {})
    assert [report.failure for report in rig.deploy()] == [None] * 3


def test_next_run_rolls_back_to_the_snapshot_of_a_killed_run(rig: Rig) -> None:
    rig.left_by_a_killed_run()
    rig.disks.mark(167, "broken")
    (report,) = rig.deploy(ONE)
    assert (report.rolled_back, rig.disks.content(167)) == (True, "old\n")
    assert re.fullmatch(
        f"an earlier deploy was interrupted: its snapshot {SNAPSHOT}, taken [0-9] s ago, is reused for a rollback of "
        "this one",
        rig.notes(),
    )
    assert (rig.snapshots(), [kind for kind, _ in rig.tasks()]) == ({}, ["vzdelsnapshot", "vzrollback", "vzstart"])


def test_successful_run_removes_the_snapshot_of_a_killed_run(rig: Rig) -> None:
    rig.left_by_a_killed_run()
    rig.disks.put(167, NEW)
    (report,) = rig.deploy(ONE)
    assert (report.failure, report.changes, rig.snapshots()) == (None, [], {})
    rig.begin()
    rig.deploy(ONE)
    assert rig.pve.requests == []


@pytest.mark.parametrize("noted", [True, False])
def test_old_or_unfinished_snapshot_is_replaced(rig: Rig, noted: bool) -> None:
    for age, state in ((7200, None), (0, "delete"), (0, "prepare")):
        rig.left_by_a_killed_run(age, noted=noted)
        if state:
            rig.pve.ct(167).snapshots[SNAPSHOT]["snapstate"] = state
        rig.disks.mark(167, "broken")
        rig.said = io.StringIO()
        (report,) = rig.deploy(ONE)
        assert (report.rolled_back, rig.disks.content(167)) == (True, "half\n")
        assert "is removed" in rig.notes()
        assert [kind for kind, _ in rig.tasks()].count("vzsnapshot") == 1
        assert rig.snapshots() == {}


def test_snapshot_that_is_not_the_newest_is_replaced(rig: Rig) -> None:
    rig.left_by_a_killed_run(60)
    snapshot.create(make_session(rig.site.inventory, rig.site.known_hosts), "mine", limit=[ONE])
    assert rig.deploy(ONE)[0].failure is None
    assert rig.snapshots() == {167: ["mine"]}


def test_failed_rollback_names_the_command(rig: Rig) -> None:
    rig.disks.mark(167, "broken")
    rig.pve.fail("POST", f"/lxc/167/snapshot/{SNAPSHOT}/rollback", 500, "no such luck", times=1)
    (report,) = rig.deploy(ONE)
    assert report.failure is not None
    assert not report.rolled_back
    assert "\nThe rollback failed, too: " in report.failure.details
    assert report.failure.resolution.endswith(f"`homelab snapshot rollback {SNAPSHOT} --limit {ONE}`")
    assert rig.snapshots() == {167: [SNAPSHOT]}
    session = make_session(rig.site.inventory, rig.site.known_hosts)
    snapshot.rollback(session, SNAPSHOT, confirm=lambda lines: True, limit=[ONE])
    assert rig.disks.content(167) == "old\n"


def test_container_without_ssh_after_rollback_keeps_its_snapshot(rig: Rig) -> None:
    rig.disks.mark(167, "broken")
    rig.disks.mark(167, "away")
    (report,) = rig.deploy(ONE)
    assert report.failure is not None
    assert "Cannot connect to postgres-data: no answer over SSH" in report.failure.details
    assert (report.rolled_back, rig.snapshots()) == (False, {167: [SNAPSHOT]})


def test_failed_snapshot_removal_is_reported(rig: Rig) -> None:
    rig.pve.fail("DELETE", f"/lxc/167/snapshot/{SNAPSHOT}", 500, "no such luck", times=1)
    (report,) = rig.deploy(ONE)
    assert report.failure is not None
    assert report.failure.brief == f"Cannot remove snapshot {SNAPSHOT} of {ONE} after its deploy"
    assert rig.disks.content(167) == NEW
    assert rig.deploy(ONE)[0].failure is None, "the next one removes it"
    assert rig.snapshots() == {}


def test_rollback_option_needs_a_real_deploy(rig: Rig) -> None:
    done = CliRunner().invoke(
        app, ["-i", str(rig.site.folder / "inventory.yaml"), "deploy", "--rollback-on-failure", "--dry-run"]
    )
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert rig.pve.requests == []


# ------------------------------------------------------------------ killed


def _begin(place: Scene) -> Disks:
    place.succeeds("up", ONE)
    disks = Disks(place.inventory.path.parent / "disks")
    disks.behind(place.pve)
    return disks


def _reset(place: Scene, disks: Disks, stage: object) -> None:
    place.pve.cts = copy.deepcopy(stage)  # type: ignore[assignment]
    place.pve.tasklog.clear()
    for entry in disks.root.iterdir() if disks.root.exists() else ():
        if entry.name.endswith("@"):
            (entry / "content").unlink()
            entry.rmdir()
    (place.inventory.state_dir / "deploy-snapshots").unlink(missing_ok=True)
    disks.put(167, "old\n")


def kill_at_every_call(place: Scene, broken: bool, acts: bool) -> int:
    """Kill a deploy at each of its calls in turn; each time the next run has the result of an undisturbed one."""
    disks = _begin(place)
    stage = copy.deepcopy(place.pve.cts)
    status, content = (1, "old\n") if broken else (0, NEW)
    for number in range(1, 100):
        _reset(place, disks, stage)
        disks.mark(167, "broken", broken)
        ended = place.run("deploy", ONE, deadly=number, acts=acts)
        at = place.pve.hit
        assert ended.status == (-signal.SIGKILL if at else status), (number, at, ended)
        if at:
            again = place.run("deploy", ONE)
            assert again.status == status, (number, at, again.said)
        assert disks.content(167) == content, (number, at)
        (ct,) = place.pve.cts
        assert (ct.status, ct.lock, list(ct.snapshots)) == ("running", None, []), (number, at)
        assert not (place.inventory.state_dir / "deploy-snapshots").exists(), (number, at)
        if not at:
            return number
    raise AssertionError("no run completed")


@pytest.mark.parametrize(("broken", "calls"), [(False, 8), (True, 12)])
def test_killed_at_every_call(
    broken: bool, calls: int, tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)

    def act(acts: bool) -> int:
        with scene(tmp_path / f"{'after' if acts else 'before'}", pair) as place:
            return kill_at_every_call(place, broken, acts)

    with ThreadPoolExecutor(2) as both:
        assert min(both.map(act, (False, True))) > calls


@pytest.mark.parametrize("broken", [False, True])
def test_killed_during_the_changes(
    broken: bool, tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    with scene(tmp_path / "scene", pair) as place:
        disks = _begin(place)
        disks.put(167, "old\n")
        disks.mark(167, "deadly")
        disks.mark(167, "broken", broken)
        assert place.run("deploy", ONE).status == -signal.SIGKILL
        assert (disks.content(167), list(place.pve.ct(167).snapshots)) == (NEW, [SNAPSHOT])
        assert place.run("deploy", ONE).status == int(broken)
        assert (disks.content(167), list(place.pve.ct(167).snapshots)) == ("old\n" if broken else NEW, [])


def test_snapshot_list_contains_the_deploy_snapshot(rig: Rig) -> None:
    rig.left_by_a_killed_run()
    (found,) = snapshot.list_snapshots(make_session(rig.site.inventory, rig.site.known_hosts))
    assert (found.container, found.name) == (ONE, SNAPSHOT)


def test_fake_node_restores_disk_content(rig: Rig) -> None:
    rig.left_by_a_killed_run()
    session = make_session(rig.site.inventory, rig.site.known_hosts)
    snapshot.rollback(session, SNAPSHOT, confirm=lambda lines: True, limit=[ONE])
    assert rig.disks.content(167) == "old\n"
