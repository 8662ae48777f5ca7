"""Snapshots, backups and restores against an in-process node: what people see, and what the next run does."""

from __future__ import annotations

import functools
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from typer import main

from homelab.cli import app
from homelab.cli.common import Settings
from homelab.cli.output import to_json
from homelab.commands import backup, restore, snapshot
from homelab.errors import HomelabError, InputError
from homelab.progress import SilentProgress
from homelab.proxmox import Client, restores, snapshots
from homelab.proxmox.tasks import Task
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import FixedSecretStore

ONE = "postgres-data"
ROOTS = "local:backup/vzdump-lxc-167-"


class Notes(SilentProgress):
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self.lines.append(f"{who}: {text}")


class Keeper:
    """The verbs on a site; what they noted, and what they asked."""

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
        """`homelab snapshot VERB NAME --limit …`."""
        if verb != "create":
            more["confirm"] = self._confirm
        if verb == "rollback":
            more["known_hosts"] = self.site.known_hosts
        return getattr(snapshot, verb)(self.site.inventory, name, progress=self.progress, limit=limit, **more)

    def snapshots(self, *limit: str) -> Sequence[Any]:
        """`homelab snapshot list`."""
        return snapshot.listed(self.site.inventory, progress=self.progress, limit=limit)

    def back_up(self, *names: str, **more: Any) -> backup.BackedUp:
        """`homelab backup NAME…`."""
        return backup.backup(
            self.site.inventory,
            known_hosts=self.site.known_hosts,
            progress=self.progress,
            confirm=self._confirm,
            names=names,
            **more,
        )

    def backups(self, *names: str) -> list[str]:
        """`homelab backup --list`: the volumes."""
        return [each.volid for each in backup.listed(self.site.inventory, names=names)]

    def restore(self, name: str = ONE, volid: str | None = None, **more: Any) -> Any:
        """`homelab restore NAME VOLID`."""
        return restore.restore(
            self.site.inventory,
            name,
            volid,
            secret_store=FixedSecretStore(),
            progress=self.progress,
            known_hosts=self.site.known_hosts,
            wait_for_ssh=lambda c: self.waited.append(c.name),
            **more,
        )

    def done(self) -> Counter[tuple[str, str]]:
        """How many tasks of each kind ended well, by vmid; since the last time."""
        until = time.monotonic() + 5
        while any("exitstatus" not in task for task in self.pve.tasklog) and time.monotonic() < until:
            time.sleep(0.005)
        counted = Counter((t["type"], t["id"]) for t in self.pve.tasklog[self.seen :] if t["exitstatus"] == "OK")
        self.seen = len(self.pve.tasklog)
        return counted


@pytest.fixture
def keeper(site: Site) -> Keeper:
    """All three containers run."""
    site.up()
    site.pve.requests.clear()
    return Keeper(site)


@pytest.fixture
def alone(site: Site) -> Keeper:
    """One of them is there, and runs."""
    site.up(ONE)
    site.pve.requests.clear()
    return Keeper(site)


def fails(act: Any, *words: str, **more: str) -> HomelabError:
    """The error that a verb ends with: it says what happened, why, and what to do."""
    with pytest.raises(HomelabError) as caught:
        act(*words, **more)
    error = caught.value
    assert all(part.strip() for part in (error.brief, error.details, error.resolution)), error
    assert "\n" not in error.brief + error.resolution
    return error


def changes(keeper: Keeper) -> list[str]:
    """The calls that are no reads."""
    return [call for call in keeper.pve.calls() if not call.startswith("GET")]


# ------------------------------------------------------------------ snapshots


def test_a_snapshot_of_all_and_back(keeper: Keeper) -> None:
    outcome = keeper.snap("create", "before-upgrade", description="Airflow 3.3")
    assert sorted(outcome.done) == sorted(NAMES)
    assert keeper.done() == {("vzsnapshot", str(vmid)): 1 for vmid in (167, 168, 169)}
    first, *_ = found = keeper.snapshots()
    assert [each.container for each in found] == NAMES
    assert (first.name, first.description, first.parent, first.current) == ("before-upgrade", "Airflow 3.3", None, True)
    assert abs(first.made - time.time()) < 5
    ct = keeper.pve.ct(167)
    ct.config["memory"], ct.status = 512, "stopped"
    assert keeper.snap("rollback", "before-upgrade", ONE).done
    assert keeper.asked == [
        "postgres-data goes back to before-upgrade, taken just now: all that came after is lost. It is started."
    ]
    assert (ct.config["memory"], ct.status) == (2048, "running")
    assert keeper.done() == {("vzrollback", "167"): 1, ("vzstart", "167"): 1}
    assert keeper.snap("rollback", "before-upgrade").done
    assert "It is stopped at once, and started again." in keeper.asked[-1]
    assert {ct.status for ct in keeper.pve.cts} == {"running"}


def test_what_is_there_already_is_not_taken_again(keeper: Keeper) -> None:
    keeper.snap("create", "a1", "analytics-platform")
    keeper.pve.ct(168).snapshots["a1"]["snaptime"] -= 3 * 86400
    assert sorted(keeper.snap("create", "a1").done) == sorted(set(NAMES) - {"analytics-platform"})
    assert keeper.progress.lines == ["analytics-platform: has a1 already, taken 3 d ago"]
    keeper.pve.requests.clear()
    assert str(keeper.snap("create", "a1")) == "Nothing to do: every container has a1."
    assert changes(keeper) == []


def test_list_shows_the_order_and_where_we_are(alone: Keeper) -> None:
    for number, name in enumerate(("a1", "b1", "c1")):
        alone.snap("create", name, ONE)
        alone.pve.ct(167).snapshots[name]["snaptime"] += number
    alone.snap("rollback", "b1", ONE)
    rows = [(each["name"], each["parent"], each["current"]) for each in to_json(alone.snapshots(ONE))]
    assert rows == [("a1", None, False), ("b1", "a1", True), ("c1", "b1", False)]


@pytest.mark.parametrize(
    "name", ["", "a", "1st", "-x", "before upgrade", "before/upgrade", "current", "vzdump", "x" * 41, "ä1"]
)
def test_names_are_checked_before_anything_is_sent(site: Site, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a snapshot"):
        Keeper(site).snap("create", name)
    assert site.pve.requests == []


@pytest.mark.parametrize("kind", ["dir", "lvm", "nfs"])
def test_a_storage_that_cannot(keeper: Keeper, kind: str) -> None:
    keeper.pve.storages["local-lvm"]["type"] = kind
    error = fails(keeper.snap, "create", "a1")
    assert error.brief == f"No snapshot can be taken of {', '.join(NAMES)}"
    assert f"rootfs of postgres-data is on local-lvm, of type {kind}" in error.details
    assert "`homelab backup" in error.resolution
    assert "zfspool" in error.resolution
    assert changes(keeper) == []


def test_a_disk_that_is_a_folder_of_the_node(keeper: Keeper) -> None:
    keeper.pve.ct(168).config["mp0"] = "/srv/data,mp=/data"
    error = fails(keeper.snap, "create", "a1")
    assert error.brief == "No snapshot can be taken of analytics-platform"
    assert error.details.endswith("mp0 of analytics-platform is /srv/data of the node itself.")
    assert changes(keeper) == []


def test_on_zfs_only_the_newest(keeper: Keeper) -> None:
    keeper.pve.storages["local-lvm"]["type"] = "zfspool"
    for name in ("a1", "b1"):
        keeper.snap("create", name, ONE)
        keeper.pve.ct(167).snapshots[name]["snaptime"] += name == "b1"
    error = fails(keeper.snap, "rollback", "a1", ONE)
    assert error.brief == "postgres-data cannot go back to a1 while there are newer snapshots"
    assert "`homelab snapshot delete b1 --limit postgres-data`" in error.resolution
    keeper.snap("create", "a1")
    assert fails(keeper.snap, "rollback", "a1").brief == error.brief
    assert not [call for call in keeper.pve.calls("POST") if call.endswith("/rollback")]
    # One that Proxmox does not list, as a replication job's.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "require_way_back", lambda *_: None)
        assert "See the storage's snapshots on the node" in fails(keeper.snap, "rollback", "a1", ONE).resolution
    assert keeper.pve.ct(167).status == "running"
    keeper.snap("delete", "b1", ONE)
    assert keeper.snap("rollback", "a1", ONE).done


def test_no_is_no(keeper: Keeper) -> None:
    keeper.snap("create", "a1")
    keeper.pve.requests.clear()
    keeper.answer = False
    for act in (
        functools.partial(keeper.snap, "rollback", "a1"),
        functools.partial(keeper.snap, "delete", "a1"),
        functools.partial(keeper.back_up, mode="stop"),
    ):
        assert str(act()) == "Nothing has been changed."
    assert changes(keeper) == []
    assert len(keeper.asked) == 9


def test_going_back_wants_the_snapshot_everywhere(keeper: Keeper) -> None:
    keeper.snap("create", "a1", ONE)
    keeper.pve.requests.clear()
    error = fails(keeper.snap, "rollback", "a1")
    assert error.brief == "analytics-platform has no snapshot a1"
    assert isinstance(error, InputError)
    assert (changes(keeper), keeper.asked) == ([], [])


def test_delete(keeper: Keeper) -> None:
    keeper.snap("create", "a1", ONE)
    assert list(keeper.snap("delete", "a1").done) == [ONE]
    assert keeper.asked == ["postgres-data: snapshot a1, taken just now, is removed"]
    assert keeper.pve.ct(167).snapshots == {}
    assert str(keeper.snap("delete", "a1")) == "Nothing to do: there is no snapshot a1."


def test_one_that_was_cut_off(keeper: Keeper) -> None:
    keeper.snap("create", "a1", ONE)
    ct = keeper.pve.ct(167)
    ct.snapshots["a1"]["snapstate"], ct.lock = "prepare", "snapshot"
    error = fails(keeper.snap, "create", "a1")
    assert error.brief == "postgres-data is locked (snapshot)"
    assert "the making of a snapshot was cut off" in error.details
    assert "`pct unlock 167`" in error.resolution
    ct.lock = None
    for verb in ("create", "rollback"):
        error = fails(keeper.snap, verb, "a1", ONE)
        assert error.brief == "postgres-data: snapshot a1 is not whole"
        assert "homelab snapshot delete a1 --limit postgres-data" in error.resolution
    keeper.snap("delete", "a1", ONE)
    assert any(path.endswith("/snapshot/a1") for method, path, _ in keeper.pve.requests if method == "DELETE")
    assert ct.snapshots == {}


def begun(keeper: Keeper, path: str, kind: str, **parameters: Any) -> None:
    """Begin a task that takes a while, as a run that is killed right after leaves it."""
    keeper.pve.time_scale = 1.0
    keeper.pve.ct_secs |= dict.fromkeys(("create", "snapshot", "rollback"), 0.4)
    Client(keeper.site.inventory.endpoint).post(path, **parameters)
    assert [task["type"] for task in keeper.pve.tasklog if task["status"] == "running"] == [kind]


def test_a_snapshot_that_is_being_taken_is_waited_for(alone: Keeper) -> None:
    begun(alone, "nodes/pve/lxc/167/snapshot", "vzsnapshot", snapname="a1")
    assert str(alone.snap("create", "a1", ONE)) == "Nothing to do: every container has a1."
    assert alone.done() == {("vzsnapshot", "167"): 1}


def test_a_rollback_that_still_runs_is_not_made_again(alone: Keeper) -> None:
    alone.snap("create", "a1", ONE)
    alone.done()
    begun(alone, "nodes/pve/lxc/167/snapshot/a1/rollback", "vzrollback", start=True)
    assert alone.snap("rollback", "a1", ONE).done
    assert alone.done() == {("vzrollback", "167"): 1, ("vzstart", "167"): 1}
    assert alone.pve.ct(167).status == "running"


def test_somebody_elses_task_is_named(keeper: Keeper) -> None:
    keeper.pve.time_scale = 1.0
    keeper.pve.ct_secs["create"] = 5
    keeper.pve.apitokens["root@pam!cron"] = "x"
    endpoint = keeper.site.inventory.endpoint
    other = Client(
        endpoint.__class__(
            **{name: getattr(endpoint, name) for name in endpoint.__slots__} | {"token_id": "root@pam!cron"}
        )
    )
    other._token = type(other._token)("x")
    other.post("nodes/pve/vzdump", vmid=167, storage="local", compress="zstd")
    for act in (functools.partial(keeper.snap, "create", "a1"), functools.partial(keeper.back_up, ONE)):
        error = fails(act)
        assert error.brief == "postgres-data is locked (backup)"
        assert error.details == "root@pam!cron has begun vzdump of 167, which still runs on node pve."
    assert changes(keeper) == ["POST /nodes/pve/vzdump"]


def test_somebody_who_was_quicker(alone: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Client.get

    def and_locked(self: Client, path: str, **params: Any) -> Any:
        answer = ask(self, path, **params)
        if path.endswith("/feature"):
            alone.pve.ct(167).lock = "migrate"
        return answer

    monkeypatch.setattr(Client, "get", and_locked)
    error = fails(alone.snap, "create", "a1", ONE)
    assert error.brief == "postgres-data is locked (migrate)"
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
def test_an_answer_that_is_lost_is_looked_for(alone: Keeper, method: str, suffix: str, kind: str) -> None:
    alone.back_up(ONE)
    if kind != "vzsnapshot":
        alone.snap("create", "a1", ONE)
    if kind == "vzrestore":
        alone.site.destroy(ONE)
    alone.done()
    alone.pve.losing[method, suffix] = 1
    {
        "vzsnapshot": lambda: alone.snap("create", "a1", ONE),
        "vzrollback": lambda: alone.snap("rollback", "a1", ONE),
        "vzdelsnapshot": lambda: alone.snap("delete", "a1", ONE),
        "vzdump": lambda: alone.back_up(ONE),
        "prunebackups": lambda: alone.back_up(ONE, keep=1),
        "vzrestore": alone.restore,
    }[kind]()
    assert alone.pve.losing == {(method, suffix): 0}
    assert [count for (made, _), count in alone.done().items() if made == kind] == [1]
    assert alone.pve.ct(167).status == "running"


def test_strangers_are_not_touched(keeper: Keeper) -> None:
    keeper.pve.ct(168).config["tags"] = "paperless"
    for act in (
        functools.partial(keeper.snap, "create", "a1"),
        keeper.back_up,
        functools.partial(keeper.snap, "delete", "a1"),
    ):
        assert fails(act).brief == "168 is not ours"
    assert changes(keeper) == []


def test_what_is_not_there_is_left_out_unless_it_is_named(keeper: Keeper) -> None:
    keeper.site.destroy(ONE)
    assert sorted(keeper.snap("create", "a1").done) == sorted(set(NAMES) - {ONE})
    assert f"{ONE}: it is not there: left out" in keeper.progress.lines
    assert "`homelab up` makes it" in fails(keeper.snap, "create", "a1", ONE).resolution


# -------------------------------------------------------------------- backups


def test_backups_with_retention(keeper: Keeper) -> None:
    first = keeper.back_up()
    assert [made.container for made in first.made] == NAMES
    assert {made.mode for made in first.made} == {"snapshot"}
    assert {made.size for made in first.made} == {50_000_000}
    assert str(first).splitlines()[0] == f"postgres-data: {first.made[0].volid}, 48 MiB"
    keeper.pve.storages["local"]["volumes"][first.made[1].volid.partition(":")[2]]["protected"] = True
    keeper.back_up(ONE)
    done = keeper.back_up(keep=1)
    removed = {made.container: len(made.removed) for made in done.made}
    assert removed == {"postgres-data": 2, "analytics-platform": 0, "airflow-orchestration": 1}
    assert len(keeper.backups()) == 4
    assert keeper.backups(ONE) == [done.made[0].volid]
    assert {kind for kind, _ in keeper.done()} == {"vzdump", "prunebackups"}


def test_what_a_backup_notes_is_whose_it_is_and_its_host_key(alone: Keeper) -> None:
    alone.back_up(ONE)
    (found,) = backup.listed(alone.site.inventory, names=(ONE,))
    assert found.notes == f"postgres-data of homelab lab home, SSH host key {alone.pve.keys[167]}"
    assert (found.guest, found.lab, found.host_key, found.vmid) == (ONE, "home", alone.pve.keys[167], 167)


@pytest.mark.parametrize(
    ("kind", "mode", "line"),
    [
        ("dir", None, "; it stood still for N s"),
        ("zfspool", "stop", "; it was down for N s"),
        ("zfspool", "suspend", "; it stood still for N s"),
        ("lvmthin", None, " MiB"),
    ],
)
def test_what_it_does_to_a_running_container(alone: Keeper, kind: str, mode: Any, line: str) -> None:
    alone.pve.storages["local-lvm"]["type"] = kind
    assert re.sub(r"for (<1|\d+) s$", "for N s", str(alone.back_up(ONE, mode=mode))).endswith(line)
    assert alone.asked == (
        ["postgres-data is shut down, and started again when its backup is made"] if mode == "stop" else []
    )
    assert alone.pve.ct(167).status == "running"


def test_a_backup_that_still_runs_is_taken_for_ours(alone: Keeper) -> None:
    begun(alone, "nodes/pve/vzdump", "vzdump", vmid=167, storage="local", compress="zstd")
    (made,) = alone.back_up(ONE).made
    assert alone.backups(ONE) == [made.volid]
    assert alone.done() == {("vzdump", "167"): 1}


def test_which_storage(keeper: Keeper) -> None:
    storages = keeper.pve.storages
    storages["nas"] = {"type": "nfs", "active": 1, "content": "images,backup", "files": set(), "volumes": {}}
    error = fails(keeper.back_up)
    assert (error.brief, error.details) == ("Which storage are the backups on?", "Node pve has local, nas for backups.")
    assert keeper.back_up(ONE, storage="nas").made[0].volid.startswith("nas:backup/vzdump-lxc-167-")
    error = fails(keeper.back_up, storage="local-lvm")
    assert error.brief == "Storage local-lvm holds no backups"
    assert "--storage local or nas" in error.resolution
    assert "There is no storage tape" in fails(keeper.back_up, storage="tape").brief
    storages["nas"]["active"] = 0
    assert fails(keeper.back_up, storage="nas").brief == "Storage nas is not active"
    for each in storages.values():
        each["content"] = each["content"].replace("backup", "iso")
    assert fails(keeper.back_up).brief == "No storage of node pve holds backups"
    assert changes(keeper) == ["POST /nodes/pve/vzdump"]


def test_the_inventory_says_which_storage(keeper: Keeper) -> None:
    keeper.pve.storages["nas"] = {"type": "nfs", "active": 1, "content": "backup", "files": set(), "volumes": {}}
    keeper.site.overlaid("defaults: {backup_storage: nas}\ncontainers: {postgres-data: {backup_storage: local}}")
    places = {made.container: made.volid.partition(":")[0] for made in keeper.back_up().made}
    assert places == {"postgres-data": "local", "analytics-platform": "nas", "airflow-orchestration": "nas"}
    assert len(keeper.backups()) == 3
    keeper.site.destroy("analytics-platform")
    assert " from nas:backup/" in str(keeper.restore("analytics-platform"))


def test_a_full_storage(alone: Keeper) -> None:
    alone.pve.dump_fails = (
        "command 'tar …' failed: exit code 2\nzstd: error 25 : Write error : "
        "No space left on device (cannot write compressed block)"
    )
    error = fails(alone.back_up, ONE)
    assert error.brief == "postgres-data: storage local is full"
    assert error.details == "Backup of VM 167 failed - command 'tar …' failed: exit code 2"
    assert "--storage" in error.resolution
    assert (alone.backups(), alone.pve.ct(167).lock) == ([], None)
    alone.pve.dump_fails = None
    assert alone.back_up(ONE).made


def test_one_that_fails_does_not_stop_the_others(keeper: Keeper) -> None:
    keeper.pve.fail("POST", "/vzdump", 500, "out of luck", times=1)
    error = fails(keeper.back_up)
    assert "out of luck" in error.details
    assert len(keeper.backups()) == 2


@pytest.mark.parametrize(
    ("verb", "path", "privilege"),
    [
        ("create", "/vms/167", "VM.Snapshot"),
        ("back_up", "/vms/167", "VM.Backup"),
        ("back_up", "/storage/local", "Datastore.AllocateSpace"),
    ],
)
def test_a_missing_privilege_is_named(alone: Keeper, verb: str, path: str, privilege: str) -> None:
    alone.pve.grant_least(alone.site.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        alone.pve.grant(who, "/vms", *({"VM.Snapshot", "VM.Backup"} - {privilege}))
        alone.pve.grant(who, "/storage/local", *({"Datastore.AllocateSpace"} - {privilege}))

    def act() -> object:
        return alone.snap("create", "a1", ONE) if verb == "create" else alone.back_up(ONE)

    error = fails(act)
    assert f"It needs {privilege} on {path}" in error.resolution
    assert f"--append 1 --privs {privilege}" in error.resolution
    for who in (TOKEN, TOKEN.partition("!")[0]):
        alone.pve.grant(who, path.removesuffix("/167"), privilege)
    act()


def test_retention_needs_no_more_than_a_backup(alone: Keeper) -> None:
    alone.pve.grant_least(alone.site.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        alone.pve.grant(who, "/vms", "VM.Backup")
        alone.pve.grant(who, "/storage/local", "Datastore.AllocateSpace")
    alone.back_up(ONE)
    assert len(alone.back_up(ONE, keep=1).made[0].removed) == 1


# ------------------------------------------------------------------- restores


def stripped(config: dict[str, Any]) -> dict[str, str]:
    """A configuration as text; a description that Proxmox has written down gains a line break."""
    return {key: str(value).rstrip("\n") for key, value in config.items()}


def test_a_container_comes_back_as_it_was(keeper: Keeper) -> None:
    site, key = keeper.site, keeper.pve.keys[167]
    keeper.back_up()
    before = stripped(keeper.pve.ct(167).config)
    site.destroy(ONE)
    assert ONE not in site.known_hosts.pins()
    keeper.done()
    assert keeper.restore().done
    assert keeper.waited == [ONE]
    assert keeper.done() == {("vzrestore", "167"): 1, ("vzstart", "167"): 1}
    assert stripped(keeper.pve.ct(167).config) == before
    assert keeper.pve.ct(167).status == "running"
    assert site.known_hosts.pins()[ONE].fingerprint == key
    assert not site.up()  # nothing differs from the inventory


def test_again_it_has_nothing_to_do(alone: Keeper) -> None:
    alone.back_up(ONE)
    alone.site.destroy(ONE)
    alone.restore()
    alone.done()
    assert re.match(r"Nothing to do: postgres-data was restored \d+ s ago from local:", str(alone.restore()))
    # As a run leaves it that was killed before it came to these.
    alone.site.known_hosts.forget(ONE)
    alone.restore()
    assert alone.site.known_hosts.pins()[ONE].fingerprint == alone.pve.keys[167]
    assert alone.done() == {}
    alone.pve.ct(167).status = "stopped"
    alone.restore()
    assert alone.done() == {("vzstart", "167"): 1}
    assert alone.waited == [ONE] * 3


def test_never_over_one_that_is_there(alone: Keeper) -> None:
    alone.back_up()
    alone.pve.requests.clear()
    error = fails(alone.restore)
    assert error.brief == "postgres-data is there: a restore never goes over it"
    assert "homelab destroy --limit postgres-data" in error.resolution
    alone.pve.ct(167).config["tags"] = "paperless"
    assert fails(alone.restore).brief == "167 is not ours"
    alone.pve.ct(167).config["lock"] = "create"
    assert "`pct unlock 167`" in fails(alone.restore).resolution
    assert changes(alone) == []


def test_a_restored_one_is_not_gone_over_by_another_backup(alone: Keeper) -> None:
    alone.back_up(ONE)
    alone.site.destroy(ONE)
    alone.restore()
    alone.back_up(ONE)
    assert fails(alone.restore).brief == "postgres-data is there: a restore never goes over it"


def test_an_older_one_by_its_name(alone: Keeper) -> None:
    alone.pve.ct(167).config["memory"] = 1024
    old = alone.back_up(ONE).made[0].volid
    alone.pve.ct(167).config["memory"] = 2048
    alone.back_up(ONE)
    alone.site.destroy(ONE)
    error = fails(alone.restore, ONE, "local:backup/vzdump-lxc-167-2020_01_01-00_00_00.tar.zst")
    assert "has no backup" in error.brief
    alone.restore(ONE, old)
    assert alone.pve.ct(167).config["memory"] == 1024


def test_somebody_elses_backup_of_the_same_vmid(alone: Keeper) -> None:
    alone.pve.ct(167).config |= {"hostname": "paperless", "tags": "paperless"}
    begun(alone, "nodes/pve/vzdump", "vzdump", vmid=167, storage="local", compress="zstd")
    alone.done()
    alone.pve.cts = [ct for ct in alone.pve.cts if ct.vmid != 167]
    error = fails(alone.restore)
    assert isinstance(error, InputError)
    assert error.brief.endswith("is not a backup of postgres-data")
    assert "It is of `paperless`" in error.details
    assert alone.pve.ct(167) is None


def test_no_backup_at_all(alone: Keeper) -> None:
    alone.site.destroy(ONE)
    error = fails(alone.restore)
    assert error.brief == "There is no backup of postgres-data on storage local"
    assert "VM.Backup on /vms/167" in error.details


def test_a_restore_that_still_runs_is_waited_for(alone: Keeper) -> None:
    (made,) = alone.back_up(ONE).made
    alone.site.destroy(ONE)
    alone.done()
    begun(
        alone,
        "nodes/pve/lxc",
        "vzrestore",
        vmid=167,
        ostemplate=made.volid,
        restore=True,
        storage="local-lvm",
        start=True,
    )
    assert alone.restore().done
    assert alone.done() == {("vzrestore", "167"): 1, ("vzstart", "167"): 1}
    assert alone.site.known_hosts.pins()[ONE].fingerprint == alone.pve.keys[167]


def test_a_restore_that_ends_between_two_looks_is_seen(alone: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = alone.back_up(ONE).made
    alone.site.destroy(ONE)
    alone.done()
    begun(
        alone,
        "nodes/pve/lxc",
        "vzrestore",
        vmid=167,
        ostemplate=made.volid,
        restore=True,
        storage="local-lvm",
        start=True,
    )
    assert alone.pve.ct(167).lock == "create"
    ask, ended = restores.maker, []

    def late(client: Client, node: str, vmid: int) -> Task | None:
        if not ended:
            alone.done()  # it ended since the container was looked at
            ended.append(vmid)
        return ask(client, node, vmid)

    monkeypatch.setattr(restores, "maker", late)
    alone.restore()
    assert ended
    assert alone.waited == [ONE]
    assert alone.pve.ct(167).status == "running"
    assert alone.site.known_hosts.pins()[ONE].fingerprint == alone.pve.keys[167]


def test_disks_come_back_to_their_storages(alone: Keeper) -> None:
    alone.pve.storages["fast"] = dict(alone.pve.storages["local-lvm"], volumes={})
    alone.pve.ct(167).config |= {
        "mp0": "fast:vm-167-disk-0,mp=/data,backup=1,size=4G",
        "mp1": "fast:vm-167-disk-1,mp=/cache,size=512M",
        "mp2": "/srv/data,mp=/data2",
    }
    alone.back_up(ONE)
    alone.site.destroy(ONE)
    alone.restore()
    config = alone.pve.ct(167).config
    assert config["rootfs"].startswith("local-lvm:")
    assert re.fullmatch(r"fast:vm-167-disk-\d,backup=1,mp=/data,size=4G", config["mp0"])
    assert re.fullmatch(r"fast:vm-167-disk-\d,mp=/cache,size=512M", config["mp1"])
    assert alone.progress.lines == [
        f"{ONE}: /cache is no part of its backups: it comes back empty",
        f"{ONE}: /data2 is /srv/data of the node, which only root@pam can mount again: `pct set`",
    ]
    assert "mp2" not in config


# ----------------------------------------------------------- the command line


def test_on_the_command_line(
    alone: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homelab(*words: str) -> str:
        main.get_command(app)(["--quiet", *words], standalone_mode=False)
        return capsys.readouterr().out

    monkeypatch.setattr(Settings, "load", lambda self: alone.site.inventory)
    assert homelab("snapshot", "list") == "There are no snapshots.\n"
    assert homelab("backup", "--list") == "There are no backups.\n"
    assert homelab("snapshot", "create", "a1", "--description", "before", "--limit", ONE) == (
        "postgres-data: snapshot a1 is taken\n"
    )
    assert re.search(
        r"\npostgres-data +a1 +\d{4}-\d\d-\d\d \d\d:\d\d \(\d+ s ago\) +here +before", homelab("snapshot", "list")
    )
    (row,) = json.loads(homelab("snapshot", "list", "--json"))
    assert (row["name"], row["current"]) == ("a1", True)
    for verb in ("rollback", "delete"):
        error = fails(homelab, "snapshot", verb, "a1", "--limit", ONE)
        assert (error.brief, error.exit_code) == ("Nobody is there to confirm", 2)
        assert homelab("snapshot", verb, "a1", "--limit", ONE, "--yes").startswith("postgres-data: ")
    made = json.loads(homelab("backup", ONE, "--mode", "stop", "--keep", "1", "--yes", "--json"))["made"]
    assert re.search(rf"\npostgres-data +\S+ \S+ \(.*\) +48 MiB +{made[0]['volid']}", homelab("backup", "--list", ONE))
    assert "Say `homelab backup … --mode stop --yes`" in fails(homelab, "backup", "--mode", "stop").resolution
