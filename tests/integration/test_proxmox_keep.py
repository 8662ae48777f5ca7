"""Snapshots, backups and restores with an in-process node: their output, and the effect of the next run."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer import main

from homelab.cli import app
from homelab.cli.global_options import Settings
from homelab.cli.results import to_json
from homelab.commands import backup, restore, snapshot
from homelab.errors import HomelabError, InputError
from homelab.progress import SilentProgress
from homelab.proxmox import Client, restores, snapshots
from homelab.proxmox.tasks import Task
from homelab.runtime.session import Session
from homelab.secrets import FileSecretStore
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import make_session, recording

ONE = "postgres-data"
ROOTS = "local:backup/vzdump-lxc-167-"


class Notes(SilentProgress):
    """Progress that records notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self.lines.append(f"{who}: {text}")


class Verbs:
    """The verbs on a site, with their notes and questions."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.pve = site.pve
        self.progress = Notes()
        self.asked: list[str] = []
        self.answer = True
        self.waited: list[str] = []
        self.seen = len(site.pve.tasklog)

    def _confirm(self, lines: Sequence[str]) -> bool:
        self.asked += [re.sub(r"\d+ s ago", "just now", line) for line in lines]
        return self.answer

    def snap(self, verb: str, name: str, *limit: str, **more: Any) -> Any:
        """Run `homelab snapshot VERB NAME --limit …`."""
        if verb != "create":
            more["confirm"] = self._confirm
        return getattr(snapshot, verb)(self._session, name, limit=limit, **more)

    @property
    def _session(self) -> Session:
        return make_session(self.site.inventory, self.site.known_hosts, self.progress, recording(self.waited))

    def snapshots(self, *limit: str) -> Sequence[Any]:
        """Run `homelab snapshot list`."""
        return snapshot.list_snapshots(self._session, limit=limit)

    def back_up(self, *names: str, **more: Any) -> backup.BackupOutcome:
        """Run `homelab backup NAME…`."""
        return backup.backup(self._session, confirm=self._confirm, names=names, **more)

    def backups(self, *names: str) -> list[str]:
        """Run `homelab backup --list` and return the volumes."""
        return [each.volid for each in backup.list_backups(self._session, names=names)]

    def restore(self, name: str = ONE, volid: str | None = None, **more: Any) -> Any:
        """Run `homelab restore NAME VOLID`."""
        return restore.restore(self._session, name, volid, confirm=self._confirm, **more)

    def done(self) -> Counter[tuple[str, str]]:
        """Count the successful tasks of each kind by vmid since the last call."""
        until = time.monotonic() + 5
        while any("exitstatus" not in task for task in self.pve.tasklog) and time.monotonic() < until:
            time.sleep(0.005)
        counted = Counter((t["type"], t["id"]) for t in self.pve.tasklog[self.seen :] if t["exitstatus"] == "OK")
        self.seen = len(self.pve.tasklog)
        return counted


@pytest.fixture
def verbs(site: Site) -> Verbs:
    """A site with all three containers running."""
    site.up()
    site.pve.requests.clear()
    return Verbs(site)


@pytest.fixture
def single(site: Site) -> Verbs:
    """A site with one running container."""
    site.up(ONE)
    site.pve.requests.clear()
    return Verbs(site)


def fails(act: Any, *words: str, **more: str) -> HomelabError:
    """Return the error of a failing verb, after checking its three parts."""
    with pytest.raises(HomelabError) as caught:
        act(*words, **more)
    error = caught.value
    assert all(part.strip() for part in (error.brief, error.details, error.resolution)), error
    assert "\n" not in error.brief + error.resolution
    return error


def changes(verbs: Verbs) -> list[str]:
    """Return the changing calls."""
    return [call for call in verbs.pve.calls() if not call.startswith("GET")]


# ------------------------------------------------------------------ snapshots


def test_snapshot_of_all_and_rollback(verbs: Verbs) -> None:
    outcome = verbs.snap("create", "before-upgrade", description="Airflow 3.3")
    assert sorted(outcome.done) == sorted(NAMES)
    assert verbs.done() == {("vzsnapshot", str(vmid)): 1 for vmid in (167, 168, 169)}
    first, *_ = found = verbs.snapshots()
    assert [each.container for each in found] == NAMES
    assert (first.name, first.description, first.parent, first.current) == ("before-upgrade", "Airflow 3.3", None, True)
    assert abs(first.made - time.time()) < 5
    ct = verbs.pve.ct(167)
    ct.config["memory"], ct.status = 512, "stopped"
    assert verbs.snap("rollback", "before-upgrade", ONE).done
    assert verbs.asked == [
        "postgres-data goes back to before-upgrade, taken just now: everything later is lost. It is started."
    ]
    assert (ct.config["memory"], ct.status) == (2048, "running")
    assert verbs.done() == {("vzrollback", "167"): 1, ("vzstart", "167"): 1}
    assert verbs.snap("rollback", "before-upgrade").done
    assert "It is stopped immediately and started again." in verbs.asked[-1]
    assert {ct.status for ct in verbs.pve.cts} == {"running"}


def test_existing_snapshot_is_not_taken_again(verbs: Verbs) -> None:
    verbs.snap("create", "a1", "analytics-platform")
    verbs.pve.ct(168).snapshots["a1"]["snaptime"] -= 3 * 86400
    assert sorted(verbs.snap("create", "a1").done) == sorted(set(NAMES) - {"analytics-platform"})
    assert verbs.progress.lines == ["analytics-platform: already has a1, taken 3 d ago"]
    verbs.pve.requests.clear()
    assert str(verbs.snap("create", "a1")) == "Nothing to do: every container has a1."
    assert changes(verbs) == []


def test_snapshot_list_has_order_and_current_state(single: Verbs) -> None:
    for number, name in enumerate(("a1", "b1", "c1")):
        single.snap("create", name, ONE)
        single.pve.ct(167).snapshots[name]["snaptime"] += number
    single.snap("rollback", "b1", ONE)
    rows = [(each["name"], each["parent"], each["current"]) for each in to_json(single.snapshots(ONE))]
    assert rows == [("a1", None, False), ("b1", "a1", True), ("c1", "b1", False)]


@pytest.mark.parametrize(
    "name", ["", "a", "1st", "-x", "before upgrade", "before/upgrade", "current", "vzdump", "x" * 41, "ä1"]
)
def test_snapshot_names_are_checked_before_any_call(site: Site, name: str) -> None:
    with pytest.raises(InputError, match="Cannot use the snapshot name"):
        Verbs(site).snap("create", name)
    assert site.pve.requests == []


@pytest.mark.parametrize("kind", ["dir", "lvm", "nfs"])
def test_storage_without_snapshot_support(verbs: Verbs, kind: str) -> None:
    verbs.pve.storages["local-lvm"]["type"] = kind
    error = fails(verbs.snap, "create", "a1")
    assert error.brief == f"Cannot take a snapshot of {', '.join(NAMES)}: the storage does not support it"
    assert f"rootfs of postgres-data is on local-lvm, of type {kind}" in error.details
    assert "`homelab backup" in error.resolution
    assert "zfspool" in error.resolution
    assert changes(verbs) == []


def test_bind_mount_prevents_snapshots(verbs: Verbs) -> None:
    verbs.pve.ct(168).config["mp0"] = "/srv/data,mp=/data"
    error = fails(verbs.snap, "create", "a1")
    assert error.brief == "Cannot take a snapshot of analytics-platform: the storage does not support it"
    assert error.details.endswith("mp0 of analytics-platform is /srv/data of the node itself.")
    assert changes(verbs) == []


def test_zfs_rolls_back_only_to_the_newest(verbs: Verbs) -> None:
    verbs.pve.storages["local-lvm"]["type"] = "zfspool"
    for name in ("a1", "b1"):
        verbs.snap("create", name, ONE)
        verbs.pve.ct(167).snapshots[name]["snaptime"] += name == "b1"
    error = fails(verbs.snap, "rollback", "a1", ONE)
    assert error.brief == "Cannot roll postgres-data back to a1: there are newer snapshots"
    assert "`homelab snapshot delete b1 --limit postgres-data`" in error.resolution
    verbs.snap("create", "a1")
    assert fails(verbs.snap, "rollback", "a1").brief == error.brief
    assert not [call for call in verbs.pve.calls("POST") if call.endswith("/rollback")]
    # A snapshot that Proxmox does not list, such as a replication job's.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "require_way_back", lambda *_: None)
        assert "Check the storage's snapshots on the node" in fails(verbs.snap, "rollback", "a1", ONE).resolution
    assert verbs.pve.ct(167).status == "running"
    verbs.snap("delete", "b1", ONE)
    assert verbs.snap("rollback", "a1", ONE).done


def test_nothing_is_changed_without_confirmation(verbs: Verbs) -> None:
    verbs.snap("create", "a1")
    verbs.pve.requests.clear()
    verbs.answer = False
    for act in (
        functools.partial(verbs.snap, "rollback", "a1"),
        functools.partial(verbs.snap, "delete", "a1"),
        functools.partial(verbs.back_up, mode="stop"),
    ):
        assert str(act()) == "Nothing was changed."
    assert changes(verbs) == []
    assert len(verbs.asked) == 9


def test_rollback_needs_the_snapshot_on_every_container(verbs: Verbs) -> None:
    verbs.snap("create", "a1", ONE)
    verbs.pve.requests.clear()
    error = fails(verbs.snap, "rollback", "a1")
    assert error.brief == "Cannot find snapshot a1 of analytics-platform: it does not exist"
    assert isinstance(error, InputError)
    assert (changes(verbs), verbs.asked) == ([], [])


def test_delete_snapshot(verbs: Verbs) -> None:
    verbs.snap("create", "a1", ONE)
    assert list(verbs.snap("delete", "a1").done) == [ONE]
    assert verbs.asked == ["postgres-data: delete snapshot a1, taken just now"]
    assert verbs.pve.ct(167).snapshots == {}
    assert str(verbs.snap("delete", "a1")) == "Nothing to do: there is no snapshot a1."


def test_interrupted_snapshot(verbs: Verbs) -> None:
    verbs.snap("create", "a1", ONE)
    ct = verbs.pve.ct(167)
    ct.snapshots["a1"]["snapstate"], ct.lock = "prepare", "snapshot"
    error = fails(verbs.snap, "create", "a1")
    assert error.brief == "Cannot change postgres-data: it is locked (snapshot)"
    assert "the creation of a snapshot was interrupted" in error.details
    assert "`pct unlock 167`" in error.resolution
    ct.lock = None
    for verb in ("create", "rollback"):
        error = fails(verbs.snap, verb, "a1", ONE)
        assert error.brief == "Cannot use snapshot a1 of postgres-data: it is incomplete"
        assert "homelab snapshot delete a1 --limit postgres-data" in error.resolution
    verbs.snap("delete", "a1", ONE)
    assert any(path.endswith("/snapshot/a1") for method, path, _ in verbs.pve.requests if method == "DELETE")
    assert ct.snapshots == {}


def start_task(verbs: Verbs, path: str, kind: str, **parameters: Any) -> None:
    """Start a slow task, as left by a run that was killed right afterwards."""
    verbs.pve.time_scale = 1.0
    verbs.pve.ct_secs |= dict.fromkeys(("create", "snapshot", "rollback"), 0.4)
    Client(verbs.site.inventory.endpoint).post(path, **parameters)
    assert [task["type"] for task in verbs.pve.tasklog if task["status"] == "running"] == [kind]


def test_running_snapshot_is_waited_for(single: Verbs) -> None:
    start_task(single, "nodes/pve/lxc/167/snapshot", "vzsnapshot", snapname="a1")
    assert str(single.snap("create", "a1", ONE)) == "Nothing to do: every container has a1."
    assert single.done() == {("vzsnapshot", "167"): 1}


def test_running_rollback_is_not_repeated(single: Verbs) -> None:
    single.snap("create", "a1", ONE)
    single.done()
    start_task(single, "nodes/pve/lxc/167/snapshot/a1/rollback", "vzrollback", start=True)
    assert single.snap("rollback", "a1", ONE).done
    assert single.done() == {("vzrollback", "167"): 1, ("vzstart", "167"): 1}
    assert single.pve.ct(167).status == "running"


def test_task_of_another_user_is_named(verbs: Verbs) -> None:
    verbs.pve.time_scale = 1.0
    verbs.pve.ct_secs["create"] = 5
    verbs.pve.apitokens["root@pam!cron"] = "x"
    endpoint = verbs.site.inventory.endpoint
    other = Client(
        endpoint.__class__(
            **{name: getattr(endpoint, name) for name in endpoint.__slots__} | {"token_id": "root@pam!cron"}
        )
    )
    other._token = type(other._token)("x")
    other.post("nodes/pve/vzdump", vmid=167, storage="local", compress="zstd")
    for act in (functools.partial(verbs.snap, "create", "a1"), functools.partial(verbs.back_up, ONE)):
        error = fails(act)
        assert error.brief == "Cannot change postgres-data: it is locked (backup)"
        assert error.details == "root@pam!cron started vzdump of 167, which still runs on node pve."
    assert changes(verbs) == ["POST /nodes/pve/vzdump"]


def test_concurrent_lock(single: Verbs, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Client.get

    def and_locked(self: Client, path: str, **params: Any) -> Any:
        answer = ask(self, path, **params)
        if path.endswith("/feature"):
            single.pve.ct(167).lock = "migrate"
        return answer

    monkeypatch.setattr(Client, "get", and_locked)
    error = fails(single.snap, "create", "a1", ONE)
    assert error.brief == "Cannot change postgres-data: it is locked (migrate)"
    assert "`pct unlock 167`" in error.resolution


@pytest.mark.parametrize(
    ("method", "suffix", "kind"),
    [
        ("POST", "/snapshot", "vzsnapshot"),
        ("POST", "/rollback", "vzrollback"),
        ("DELETE", "/snapshot/a1", "vzdelsnapshot"),
        ("POST", "/vzdump", "vzdump"),
        ("DELETE", "/prunebackups", "prunebackups"),
        ("POST", "/lxc", "vzrestore"),
    ],
)
def test_lost_answer_is_checked(single: Verbs, method: str, suffix: str, kind: str) -> None:
    single.back_up(ONE)
    if kind != "vzsnapshot":
        single.snap("create", "a1", ONE)
    if kind == "vzrestore":
        single.site.destroy(ONE)
    single.done()
    single.pve.losing[method, suffix] = 1
    {
        "vzsnapshot": lambda: single.snap("create", "a1", ONE),
        "vzrollback": lambda: single.snap("rollback", "a1", ONE),
        "vzdelsnapshot": lambda: single.snap("delete", "a1", ONE),
        "vzdump": lambda: single.back_up(ONE),
        "prunebackups": lambda: single.back_up(ONE, keep=1),
        "vzrestore": single.restore,
    }[kind]()
    assert single.pve.losing == {(method, suffix): 0}
    assert [count for (made, _), count in single.done().items() if made == kind] == [1]
    assert single.pve.ct(167).status == "running"


def test_foreign_containers_are_not_changed(verbs: Verbs) -> None:
    verbs.pve.ct(168).config["tags"] = "paperless"
    for act in (
        functools.partial(verbs.snap, "create", "a1"),
        verbs.back_up,
        functools.partial(verbs.snap, "delete", "a1"),
    ):
        error = fails(act)
        assert error.brief == "Cannot use vmid 168 for analytics-platform: it belongs to a container that is not ours"
        assert error.details.endswith("It was not changed.")
    assert changes(verbs) == []


def test_missing_container_is_skipped_unless_named(verbs: Verbs) -> None:
    verbs.site.destroy(ONE)
    assert sorted(verbs.snap("create", "a1").done) == sorted(set(NAMES) - {ONE})
    assert f"{ONE}: does not exist: left out" in verbs.progress.lines
    assert "`homelab up` creates it" in fails(verbs.snap, "create", "a1", ONE).resolution


# -------------------------------------------------------------------- backups


def test_backup_with_retention(verbs: Verbs) -> None:
    first = verbs.back_up()
    assert [made.container for made in first.made] == NAMES
    assert {made.mode for made in first.made} == {"snapshot"}
    assert {made.size for made in first.made} == {50_000_000}
    assert str(first).splitlines()[0] == f"postgres-data: {first.made[0].volid}, 48 MiB"
    verbs.pve.storages["local"]["volumes"][first.made[1].volid.partition(":")[2]]["protected"] = True
    verbs.back_up(ONE)
    done = verbs.back_up(keep=1)
    removed = {made.container: len(made.removed) for made in done.made}
    assert removed == {"postgres-data": 2, "analytics-platform": 0, "airflow-orchestration": 1}
    assert len(verbs.backups()) == 4
    assert verbs.backups(ONE) == [done.made[0].volid]
    assert {kind for kind, _ in verbs.done()} == {"vzdump", "prunebackups"}


def test_backup_notes_have_container_lab_and_host_key(single: Verbs) -> None:
    single.back_up(ONE)
    (found,) = backup.list_backups(single._session, names=(ONE,))
    assert found.notes == f"postgres-data of homelab lab home, SSH host key {single.pve.keys[167]}"
    assert (found.guest, found.lab, found.host_key, found.vmid) == (ONE, "home", single.pve.keys[167], 167)


@pytest.mark.parametrize(
    ("kind", "mode", "line"),
    [
        ("dir", None, "; it was suspended for N s"),
        ("zfspool", "stop", "; it was down for N s"),
        ("zfspool", "suspend", "; it was suspended for N s"),
        ("lvmthin", None, " MiB"),
    ],
)
def test_downtime_of_a_running_container_per_mode(single: Verbs, kind: str, mode: Any, line: str) -> None:
    single.pve.storages["local-lvm"]["type"] = kind
    assert re.sub(r"for (<1|\d+) s$", "for N s", str(single.back_up(ONE, mode=mode))).endswith(line)
    assert single.asked == (
        ["postgres-data is shut down for its backup and started again afterwards"] if mode == "stop" else []
    )
    assert single.pve.ct(167).status == "running"


def test_running_backup_counts_as_this_one(single: Verbs) -> None:
    start_task(single, "nodes/pve/vzdump", "vzdump", vmid=167, storage="local", compress="zstd")
    (made,) = single.back_up(ONE).made
    assert single.backups(ONE) == [made.volid]
    assert single.done() == {("vzdump", "167"): 1}


def test_choice_of_the_storage(verbs: Verbs) -> None:
    storages = verbs.pve.storages
    storages["nas"] = {"type": "nfs", "active": 1, "content": "images,backup", "files": set(), "volumes": {}}
    error = fails(verbs.back_up)
    assert error.brief == "Cannot choose a storage for backups: there are several"
    assert error.details == "Node pve has local, nas for backups."
    assert verbs.back_up(ONE, storage="nas").made[0].volid.startswith("nas:backup/vzdump-lxc-167-")
    error = fails(verbs.back_up, storage="local-lvm")
    assert error.brief == "Cannot use storage local-lvm: it does not accept backups"
    assert "--storage local or nas" in error.resolution
    assert "Cannot use storage tape: it is missing on node pve" in fails(verbs.back_up, storage="tape").brief
    storages["nas"]["active"] = 0
    assert fails(verbs.back_up, storage="nas").brief == "Cannot use storage nas: it is not active"
    for each in storages.values():
        each["content"] = each["content"].replace("backup", "iso")
    assert fails(verbs.back_up).brief == "Cannot find a storage for backups: none on node pve accepts them"
    assert changes(verbs) == ["POST /nodes/pve/vzdump"]


def test_storage_from_the_inventory(verbs: Verbs) -> None:
    verbs.pve.storages["nas"] = {"type": "nfs", "active": 1, "content": "backup", "files": set(), "volumes": {}}
    verbs.site.overlaid("defaults: {backup_storage: nas}\ncontainers: {postgres-data: {backup_storage: local}}")
    places = {made.container: made.volid.partition(":")[0] for made in verbs.back_up().made}
    assert places == {"postgres-data": "local", "analytics-platform": "nas", "airflow-orchestration": "nas"}
    assert len(verbs.backups()) == 3
    verbs.site.destroy("analytics-platform")
    assert " from nas:backup/" in str(verbs.restore("analytics-platform"))


def test_restore_without_the_key_warns_first(verbs: Verbs, tmp_path: Path) -> None:
    verbs.back_up(ONE)
    verbs.site.destroy(ONE)
    before = changes(verbs)
    session = replace(make_session(verbs.site.inventory), secrets=FileSecretStore(tmp_path))
    asked: list[str] = []

    def decline(lines: Sequence[str]) -> bool:
        asked.extend(lines)
        return False

    outcome = restore.restore(session, ONE, confirm=decline)
    assert (str(outcome), changes(verbs)) == ("Nothing was changed.", before)
    assert f"{verbs.site.inventory.state_dir} has no SSH key." in asked[0]
    session.secrets.key_pair("operator")
    restore.restore(session, ONE, confirm=decline)
    assert len(asked) == 3


def test_backup_on_a_full_storage(single: Verbs) -> None:
    single.pve.dump_fails = (
        "command 'tar …' failed: exit code 2\nzstd: error 25 : Write error : "
        "No space left on device (cannot write compressed block)"
    )
    error = fails(single.back_up, ONE)
    assert error.brief == "Cannot back up postgres-data: storage local is full"
    assert error.details == "Backup of VM 167 failed - command 'tar …' failed: exit code 2"
    assert "--storage" in error.resolution
    assert (single.backups(), single.pve.ct(167).lock) == ([], None)
    single.pve.dump_fails = None
    assert single.back_up(ONE).made


def test_failed_backup_does_not_stop_the_others(verbs: Verbs) -> None:
    verbs.pve.fail("POST", "/vzdump", 500, "out of luck", times=1)
    error = fails(verbs.back_up)
    assert "out of luck" in error.details
    assert len(verbs.backups()) == 2


@pytest.mark.parametrize(
    ("verb", "path", "privilege"),
    [
        ("create", "/vms/167", "VM.Snapshot"),
        ("back_up", "/vms/167", "VM.Backup"),
        ("back_up", "/storage/local", "Datastore.AllocateSpace"),
    ],
)
def test_missing_privilege_is_named(single: Verbs, verb: str, path: str, privilege: str) -> None:
    single.pve.grant_least(single.site.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        single.pve.grant(who, "/vms", *({"VM.Snapshot", "VM.Backup"} - {privilege}))
        single.pve.grant(who, "/storage/local", *({"Datastore.AllocateSpace"} - {privilege}))

    def act() -> object:
        return single.snap("create", "a1", ONE) if verb == "create" else single.back_up(ONE)

    error = fails(act)
    assert f"It needs {privilege} on {path}" in error.resolution
    assert f"--append 1 --privs {privilege}" in error.resolution
    for who in (TOKEN, TOKEN.partition("!")[0]):
        single.pve.grant(who, path.removesuffix("/167"), privilege)
    act()


def test_retention_needs_no_additional_privilege(single: Verbs) -> None:
    single.pve.grant_least(single.site.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        single.pve.grant(who, "/vms", "VM.Backup")
        single.pve.grant(who, "/storage/local", "Datastore.AllocateSpace")
    single.back_up(ONE)
    assert len(single.back_up(ONE, keep=1).made[0].removed) == 1


# ------------------------------------------------------------------- restores


def stripped(config: dict[str, Any]) -> dict[str, str]:
    """Return a configuration as text, without the line break that Proxmox adds to a description."""
    return {key: str(value).rstrip("\n") for key, value in config.items()}


def test_restore_brings_the_container_back(verbs: Verbs) -> None:
    site, key = verbs.site, verbs.pve.keys[167]
    verbs.back_up()
    before = stripped(verbs.pve.ct(167).config)
    site.destroy(ONE)
    assert ONE not in site.known_hosts.pins()
    verbs.done()
    assert verbs.restore().done
    assert verbs.waited == [ONE]
    assert verbs.done() == {("vzrestore", "167"): 1, ("vzstart", "167"): 1}
    assert stripped(verbs.pve.ct(167).config) == before
    assert verbs.pve.ct(167).status == "running"
    assert site.known_hosts.pins()[ONE].fingerprint == key
    assert not site.up()  # nothing differs from the inventory


def test_second_restore_only_completes_missing_parts(single: Verbs) -> None:
    single.back_up(ONE)
    single.site.destroy(ONE)
    single.restore()
    single.done()
    assert re.match(r"Nothing to do: postgres-data was restored \d+ s ago from local:", str(single.restore()))
    # Simulate a run that was killed before these steps.
    single.site.known_hosts.forget(ONE)
    single.restore()
    assert single.site.known_hosts.pins()[ONE].fingerprint == single.pve.keys[167]
    assert single.done() == {}
    single.pve.ct(167).status = "stopped"
    single.restore()
    assert single.done() == {("vzstart", "167"): 1}
    assert single.waited == [ONE] * 3


def test_restore_never_replaces_an_existing_container(single: Verbs) -> None:
    single.back_up()
    single.pve.requests.clear()
    error = fails(single.restore)
    assert error.brief == "Cannot restore postgres-data: it exists"
    assert error.details.endswith("A restore never replaces a container.")
    assert "homelab destroy --limit postgres-data" in error.resolution
    single.pve.ct(167).config["tags"] = "paperless"
    foreign = fails(single.restore)
    assert foreign.brief == "Cannot use vmid 167 for postgres-data: it belongs to a container that is not ours"
    assert foreign.details.endswith("It was not changed.")
    single.pve.ct(167).config["lock"] = "create"
    assert "`pct unlock 167`" in fails(single.restore).resolution
    assert changes(single) == []


def test_restored_container_is_not_replaced_by_another_backup(single: Verbs) -> None:
    single.back_up(ONE)
    single.site.destroy(ONE)
    single.restore()
    single.back_up(ONE)
    assert fails(single.restore).brief == "Cannot restore postgres-data: it exists"


def test_restore_of_an_older_backup(single: Verbs) -> None:
    single.pve.ct(167).config["memory"] = 1024
    old = single.back_up(ONE).made[0].volid
    single.pve.ct(167).config["memory"] = 2048
    single.back_up(ONE)
    single.site.destroy(ONE)
    unknown = "local:backup/vzdump-lxc-167-2020_01_01-00_00_00.tar.zst"
    error = fails(single.restore, ONE, unknown)
    assert error.brief == f"Cannot restore {ONE}: storage local has no backup {unknown}"
    single.restore(ONE, old)
    assert single.pve.ct(167).config["memory"] == 1024


def test_backup_of_another_container_with_the_same_vmid(single: Verbs) -> None:
    single.pve.ct(167).config |= {"hostname": "paperless", "tags": "paperless"}
    start_task(single, "nodes/pve/vzdump", "vzdump", vmid=167, storage="local", compress="zstd")
    single.done()
    single.pve.cts = [ct for ct in single.pve.cts if ct.vmid != 167]
    error = fails(single.restore)
    assert isinstance(error, InputError)
    assert error.brief.endswith(": it is a backup of another container")
    assert "It is of `paperless`" in error.details
    assert single.pve.ct(167) is None


def test_restore_without_a_backup(single: Verbs) -> None:
    single.site.destroy(ONE)
    error = fails(single.restore)
    assert error.brief == "Cannot restore postgres-data: storage local has no backup of it"
    assert "VM.Backup on /vms/167" in error.details


def start_restore(single: Verbs, volid: str) -> None:
    """Start the restore of a backup, as a killed run of `restore` leaves it."""
    start_task(
        single, "nodes/pve/lxc", "vzrestore", vmid=167, ostemplate=volid, restore=True, storage="local-lvm", start=True
    )


def test_running_restore_is_waited_for(single: Verbs) -> None:
    (made,) = single.back_up(ONE).made
    single.site.destroy(ONE)
    single.done()
    start_restore(single, made.volid)
    assert single.restore().done
    assert single.done() == {("vzrestore", "167"): 1, ("vzstart", "167"): 1}
    assert single.site.known_hosts.pins()[ONE].fingerprint == single.pve.keys[167]


def test_restore_that_ends_between_two_reads(single: Verbs, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = single.back_up(ONE).made
    single.site.destroy(ONE)
    single.done()
    start_restore(single, made.volid)
    assert single.pve.ct(167).lock == "create"
    ask, ended = restores.maker, []

    def late(client: Client, node: str, vmid: int) -> Task | None:
        if not ended:
            single.done()  # the task ends after the container was read
            ended.append(vmid)
        return ask(client, node, vmid)

    monkeypatch.setattr(restores, "maker", late)
    single.restore()
    assert ended
    assert single.waited == [ONE]
    assert single.pve.ct(167).status == "running"
    assert single.site.known_hosts.pins()[ONE].fingerprint == single.pve.keys[167]


def test_disks_are_restored_to_their_storages(single: Verbs) -> None:
    single.pve.storages["fast"] = dict(single.pve.storages["local-lvm"], volumes={})
    single.pve.ct(167).config |= {
        "mp0": "fast:vm-167-disk-0,mp=/data,backup=1,size=4G",
        "mp1": "fast:vm-167-disk-1,mp=/cache,size=512M",
        "mp2": "/srv/data,mp=/data2",
    }
    single.back_up(ONE)
    single.site.destroy(ONE)
    single.restore()
    config = single.pve.ct(167).config
    assert config["rootfs"].startswith("local-lvm:")
    assert re.fullmatch(r"fast:vm-167-disk-\d,backup=1,mp=/data,size=4G", config["mp0"])
    assert re.fullmatch(r"fast:vm-167-disk-\d,mp=/cache,size=512M", config["mp1"])
    assert single.progress.lines == [
        f"{ONE}: /cache is not in its backups: it is empty after the restore",
        f"{ONE}: /data2 is /srv/data of the node: only root@pam can mount it again, with `pct set`",
    ]
    assert "mp2" not in config


# ----------------------------------------------------------- the command line


def test_command_line(single: Verbs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def homelab(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["homelab", "--quiet", *words])
        main.get_command(app)(sys.argv[1:], standalone_mode=False)
        return capsys.readouterr().out

    monkeypatch.setattr(Settings, "load", lambda self: single.site.inventory)
    monkeypatch.setenv("COLUMNS", "160")
    assert homelab("snapshot", "list") == "There are no snapshots.\n"
    assert homelab("backup", "--list") == "There are no backups.\n"
    assert homelab("snapshot", "create", "a1", "--description", "before", "--limit", ONE) == (
        "postgres-data: snapshot a1 taken\n"
    )
    assert re.search(
        r"\npostgres-data +a1 +\d{4}-\d\d-\d\d \d\d:\d\d \(\d+ s ago\) +yes +before", homelab("snapshot", "list")
    )
    (row,) = json.loads(homelab("snapshot", "list", "--json"))
    assert (row["name"], row["current"]) == ("a1", True)
    for verb in ("rollback", "delete"):
        error = fails(homelab, "snapshot", verb, "a1", "--limit", ONE)
        assert (error.brief, error.exit_code) == ("Cannot ask for confirmation: standard input is not a terminal", 2)
        assert homelab("snapshot", verb, "a1", "--limit", ONE, "--yes").startswith("postgres-data: ")
    made = json.loads(homelab("backup", ONE, "--mode", "stop", "--keep", "1", "--yes", "--json"))["made"]
    assert re.search(rf"\npostgres-data +\S+ \S+ \(.*\) +48 MiB +{made[0]['volid']}", homelab("backup", "--list", ONE))
    refused = fails(homelab, "backup", "--mode", "stop")
    assert refused.resolution == "Confirm with --yes: homelab --quiet backup --mode stop --yes"
