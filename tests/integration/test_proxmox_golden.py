"""`golden create`, and `up` from golden containers, with an in-process node and fake guests."""

from __future__ import annotations

import copy
import secrets
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakepve.server import TaskError

from homelab.commands import golden
from homelab.commands.destroy import destroy
from homelab.commands.plan import preview
from homelab.commands.up import up
from homelab.errors import HomelabError, InputError
from homelab.host import Host, Result
from homelab.known_hosts import KnownHosts, fingerprint
from homelab.model import Container, Secret
from homelab.plan import golden_container
from homelab.progress import SilentProgress
from homelab.proxmox import Client
from homelab.proxmox.checks import proxmox_checks
from homelab.proxmox.inspect import inspect_container
from homelab.runtime.clone_identity import PREPARE, RESTARTED, TAKE, WHOLE
from homelab.runtime.container_changes import Outcome
from homelab.runtime.session import Session
from homelab.ssh import HostKeyMismatch
from tests.integration.fakenode import TOKEN, FakeNode, inventory_for, serving
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.support import make_session

ONE, TWO, THREE = "postgres-data", "analytics-platform", "airflow-orchestration"
CLONED = "containers: {postgres-data: {clone_from: postgres-data, disk: 20, memory: 4096}}"


class RecordingProgress(SilentProgress):
    """Progress that records notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self.notes.append(f"{who}: {text}")


class PlainNode(FakeNode):
    """A node that can fail a task type, such as on a storage without template support."""

    fail_task = ""

    async def task(self, node: str, ttype: str, tid: Any, user: str, body: Any, **kwargs: Any) -> str:
        async def failing() -> str | None:
            raise TaskError(f"Template feature is not available for 'local-lvm:vm-{tid}-disk-0'")

        return await super().task(node, ttype, tid, user, failing if ttype == self.fail_task else body, **kwargs)


@dataclass
class FakeGuest:
    """A fake container behind its SSH port."""

    name: str
    vmid: int
    guests: Guests

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        self.guests.before(command)
        pve, ct = self.guests.pve, self.guests.pve.ct(self.vmid)
        status, out = 0, b""
        if command == PREPARE:
            out = f"ssh-ed25519 {b64encode(secrets.token_bytes(51)).decode()} root@{self.name}\n".encode()
            self.guests.prepared[self.vmid] = out.decode()
        elif command == TAKE:
            pve.keys[self.vmid] = fingerprint(self.guests.prepared.pop(self.vmid))
            self.guests.owed[self.vmid] = ct.started_at
        elif command == RESTARTED:
            status = int(self.guests.owed.get(self.vmid) == ct.started_at)
        else:
            assert command == WHOLE, command
        self.guests.after(command)
        return Result(command, status, out)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        return [self.run(command) for command in commands]


@dataclass
class Guests:
    """The identities inside a node's fake containers."""

    pve: FakeNode
    prepared: dict[int, str] = field(default_factory=dict)
    owed: dict[int, float] = field(default_factory=dict)  # the start after which a restart became due, by vmid
    before: Callable[[str], None] = lambda command: None
    after: Callable[[str], None] = lambda command: None

    @contextmanager
    def connect(self, container: Container, key: Secret, known_hosts: KnownHosts, deadline: float) -> Iterator[Host]:
        """Connect like SSH, which requires the pinned host key."""
        ct, pin = self.pve.ct(container.vmid), known_hosts.pins().get(container.name)
        assert ct.status == "running"
        if pin is None or pin.fingerprint != self.pve.keys[ct.vmid]:
            raise HostKeyMismatch(f"{container.name}: another key", f"shown is {self.pve.keys[ct.vmid]}", "no")
        yield FakeGuest(container.name, ct.vmid, self)


@dataclass
class Place(Site):
    """A site with guests that can be reached."""

    pve: PlainNode
    guests: Guests = field(init=False)
    shown: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guests = Guests(self.pve)

    def up(self, *limit: str) -> Outcome:
        return up(self._session, confirm=self._confirm, limit=limit)

    @property
    def _session(self) -> Session:
        return make_session(self.inventory, self.known_hosts, connector=self.guests.connect)

    def create_golden(self, name: str = ONE, vmid: int | None = None) -> Outcome:
        return golden.create(self._session, name, confirm=self._agree, vmid=vmid)

    def remove(self, name: str = ONE) -> Outcome:
        return golden.delete(self._session, name, confirm=self._agree)

    def _agree(self, lines: Sequence[str]) -> bool:
        self.shown.append(list(lines))
        return self.answer

    @property
    def goldens(self) -> list[Any]:
        return [ct for ct in self.pve.cts if ct.template]

    def pin(self, name: str) -> str:
        return self.known_hosts.pins()[name].fingerprint

    def destroyed_for_cloning(self, name: str = ONE) -> None:
        """Destroy a container, and let the inventory clone it from its golden one."""
        self.destroy(name)
        self.overlaid(CLONED)
        self.pve.tasklog.clear()


@pytest.fixture
def place(tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    pve = PlainNode(SECRET)
    with serving(pve, pair[0]):
        yield Place(
            pve,
            inventory_for(tmp_path, pve, pair[1], SECRET),
            tmp_path,
            pair[1],
            KnownHosts(tmp_path / ".homelab" / "known"),
        )


def fails(place: Place, act: Callable[[], object]) -> HomelabError:
    with pytest.raises(HomelabError) as caught:
        act()
    assert all(part.strip() for part in (caught.value.brief, caught.value.details, caught.value.resolution))
    return caught.value


def done(place: Place, kind: str) -> Counter[str]:
    return Counter(task["id"] for task in place.pve.tasklog if task["type"] == kind and task["exitstatus"] == "OK")


# -------------------------------------------------------------------- golden create


def test_golden_create_makes_a_template_of_a_container(place: Place) -> None:
    place.up(ONE)
    place.pve.ct(167).config |= {"protection": 1}
    place.pve.tasklog.clear()
    place.create_golden()
    (made,) = place.goldens
    assert place.pve.kinds() == ["vzshutdown", "vzclone", "vzstart", "vztemplate"]
    assert place.pve.ct(167).status == "running"
    assert (made.vmid, made.config["hostname"], made.config["onboot"]) == (100, "golden-postgres-data", 0)
    assert not {"startup", "protection"} & set(made.config)
    assert set(made.config["tags"].split(";")) == {"homelab", "homelab-home", golden_container.TAG}
    found = golden_container.read(made.config["description"])
    assert found
    assert (found.of, found.template) == (ONE, "local:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst")
    assert found.fingerprint == place.pin(ONE)
    assert any("passwords, keys and data" in line for line in place.shown[0])


def test_destroy_notes_that_the_golden_container_is_kept(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    progress = RecordingProgress()
    destroy(make_session(place.inventory, place.known_hosts, progress), confirm=lambda plan: True)
    assert progress.notes == ["golden-postgres-data: golden container 100 stays; `homelab golden delete` removes it"]
    assert [ct.vmid for ct in place.pve.cts] == [100]


def test_golden_container_is_not_managed_by_up_and_destroy(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    (made,) = place.goldens
    before = dict(made.config)
    assert not place.up(ONE)
    place.overlaid("containers: {postgres-data: {vmid: 100}}")
    error = fails(place, lambda: place.up(ONE))
    assert error.brief == "Cannot use vmid 100 for postgres-data: it belongs to a template"
    assert not place.destroy(ONE)
    assert (place.goldens, dict(made.config)) == ([made], before)


def test_nothing_is_done_without_confirmation(place: Place) -> None:
    place.up(ONE)
    place.pve.tasklog.clear()
    place.answer = False
    assert str(place.create_golden()) == "Nothing was changed."
    assert place.pve.kinds() == []


def test_second_golden_create_removes_the_older_one_last(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.pve.tasklog.clear()
    place.create_golden()
    assert [ct.vmid for ct in place.goldens] == [101]
    assert place.pve.kinds()[-2:] == ["vztemplate", "vzdestroy"]


def test_failed_copy_keeps_the_older_one_and_restarts_the_source(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    good = place.pve.ceph_io

    async def full(*_: Any) -> None:
        if len(place.pve.cts) > 2:
            raise TaskError("clone failed: command 'lvcreate' failed: Insufficient free space")

    place.pve.ceph_io = full
    error = fails(place, place.create_golden)
    assert "Insufficient free space" in error.details
    assert [ct.vmid for ct in place.goldens] == [100]
    assert place.pve.ct(167).status == "running"
    place.pve.ceph_io = good
    place.create_golden()
    assert [ct.vmid for ct in place.goldens] == [101]


def test_vmid_taken_during_confirmation(place: Place) -> None:
    place.up(ONE)

    def agree(_: Sequence[str]) -> bool:
        place.pve.add_ct(100, "paperless", node="pve")
        return True

    place._agree = agree  # type: ignore[method-assign]
    place.create_golden()
    assert [ct.vmid for ct in place.goldens] == [101]


def test_vmid_is_the_users_or_the_last_of_the_range(place: Place) -> None:
    place.up(ONE)
    place.create_golden(vmid=900)
    place.pve.ct(900).config["description"] = "another lab's"
    for taken in (900, 168):
        with pytest.raises(InputError, match=f"Cannot use vmid {taken}: it is taken"):
            place.create_golden(vmid=taken)
    place.overlaid("defaults: {vmid_range: 160-199}")
    place.create_golden()
    assert [ct.vmid for ct in place.goldens] == [900, 199]


def test_missing_clone_privilege_is_refused_before_any_change(place: Place) -> None:
    place.up(ONE)
    place.pve.grant_least(place.inventory)
    place.pve.tasklog.clear()
    error = fails(place, place.create_golden)
    assert "VM.Clone on /vms/167" in error.details
    assert "--privs VM.Clone" in error.resolution
    for who in (TOKEN, TOKEN.partition("!")[0]):
        place.pve.grant(who, "/vms/167", "VM.Clone", "VM.Audit")
        place.pve.acl[who] = [(path, privs - {"VM.Allocate"}) for path, privs in place.pve.acl[who]]
    error = fails(place, place.create_golden)
    assert "no free vmid" in error.brief
    assert "pveum acl modify /vms --roles HomelabContainers" in error.resolution
    assert place.pve.kinds() == []


def test_privilege_on_the_pool_is_sufficient(place: Place) -> None:
    place.pve.pools = {"lab": set()}
    place.overlaid("defaults: {pool: lab}")
    place.up(ONE)
    place.pve.grant_least(place.inventory)
    for who in (TOKEN, TOKEN.partition("!")[0]):
        place.pve.grant(who, "/pool/lab", "VM.Clone")
    place.create_golden()
    assert len(place.goldens) == 1
    assert place.pve.pools["lab"] == {167, place.goldens[0].vmid}


def test_storage_without_template_support(place: Place) -> None:
    place.up(ONE)
    place.pve.fail_task = "vztemplate"
    error = fails(place, place.create_golden)
    assert "Template feature is not available" in error.details
    assert "`homelab golden delete postgres-data`" in error.resolution
    assert place.pve.ct(167).status == "running"
    half = place.pve.ct(100)
    assert (half.template, half.config["onboot"], golden_container.TAG in half.config["tags"]) == (False, 0, True)
    assert not place.up(ONE)
    place.pve.fail_task = ""
    place.remove()
    place.create_golden()
    assert [ct.vmid for ct in place.goldens] == [100]


def test_bind_mount_is_refused_before_any_change(place: Place) -> None:
    place.up(ONE)
    place.pve.ct(167).config["mp0"] = "/mnt/pictures,mp=/pictures"
    place.pve.tasklog.clear()
    error = fails(place, place.create_golden)
    assert "mp0 is a directory of the node" in error.details
    assert place.pve.kinds() == []


def test_remove_destroys_the_golden_container(place: Place) -> None:
    assert str(place.remove()) == "Nothing to do: postgres-data has no golden container."
    place.up(ONE)
    place.create_golden()
    place.remove()
    assert [ct.vmid for ct in place.pve.cts] == [167]


# --------------------------------------------------------------- up from it


def assert_finished(place: Place, name: str = ONE, vmid: int = 167) -> None:
    """Check that a clone matches the inventory, has its own pinned key, and needs no more actions."""
    ct, container = place.pve.ct(vmid), place.containers[name]
    assert (ct.status, ct.lock) == ("running", None)
    found = inspect_container(Client(place.inventory.endpoint), container, "pve")
    assert found
    assert (found.shape, found.unfinished) == (container.shape, None)
    assert place.pin(name) == place.pve.keys[vmid]
    assert all(place.pve.keys[vmid] != place.pve.keys[other.vmid] for other in place.pve.cts if other.vmid != vmid)
    assert not place.up(name)


def test_up_clones_from_a_golden_container(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    macs = {ct.config["net0"].partition("hwaddr=")[2][:17] for ct in place.pve.cts}
    old = place.pin(ONE)
    place.destroyed_for_cloning()
    outcome = place.up(ONE)
    (line,) = outcome.done[ONE]
    assert line.startswith("clone postgres-data (167): 1 vCPU, 4096 MiB, 20 GiB, 192.168.2.67/24, golden/postgres-data")
    assert_finished(place)
    assert place.pin(ONE) != old
    assert place.pve.kinds() == ["vzclone", "resize", "vzstart", "vzshutdown", "vzstart"]
    assert place.pve.ct(167).config["net0"].partition("hwaddr=")[2][:17] not in macs
    assert place.pve.ct(167).config["tags"] == "homelab;homelab-home"
    description = place.pve.ct(167).config["description"]
    assert "Created from local:vztmpl/ubuntu-24.04" in description
    assert "Cloned from the golden container of postgres-data, created at 2" in description
    assert "Unfinished" not in description


def test_lost_pin_of_a_clone_is_not_read_from_a_create_log(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    place.up(ONE)
    place.known_hosts.forget(ONE)
    error = fails(place, lambda: place.up(ONE))
    assert "It is a clone" in error.details
    assert "homelab trust host postgres-data FINGERPRINT" in error.resolution


def test_several_clones_of_one_golden_container(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.overlaid(
        "containers: {analytics-platform: {clone_from: postgres-data}, "
        "airflow-orchestration: {clone_from: postgres-data}}"
    )
    place.pve.time_scale, place.pve.ct_secs["clone"] = 1.0, 0.1
    place.up()
    assert_finished(place, TWO, 168)
    assert_finished(place, THREE, 169)
    assert done(place, "vzclone") == {"167": 1, "100": 2}


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_clone_gets_its_own_firewall(place: Place, wanted: str) -> None:
    place.overlaid("defaults: {firewall: true}").up(ONE)
    place.create_golden()
    place.overlaid(
        f"containers: {{postgres-data: {{firewall: true}}, analytics-platform: {{clone_from: postgres-data, "
        f"firewall: {wanted}}}}}"
    )
    place.up(TWO)
    assert_finished(place, TWO, 168)
    source, kept = (place.pve.firewall_config("ct", vmid=vmid) for vmid in (167, 168))
    assert any("PostgreSQL" in rule["comment"] for rule in source["rules"])
    assert not any("PostgreSQL" in rule["comment"] for rule in kept["rules"])
    assert bool(kept["options"].get("enable")) == (wanted == "true")


@pytest.mark.parametrize("shared", [True, False])
def test_clone_to_another_node_needs_shared_storage(place: Place, shared: bool) -> None:
    place.pve.nodes["pve2"] = {"online": True}
    place.overlaid("proxmox: {node: pve}").up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    place.overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {clone_from: postgres-data, node: pve2}}")
    place.pve.storages["local-lvm"]["shared"] = int(shared)
    if shared:
        place.up(ONE)
        assert (place.pve.ct(167).node, place.pve.ct(167).status) == ("pve2", "running")
        assert not place.up(ONE)
    else:
        error = fails(place, lambda: place.up(ONE))
        assert "non-shared storage 'local-lvm'" in error.details
        assert "node" in error.resolution
        assert place.pve.kinds() == []


@pytest.mark.parametrize(
    ("overlay", "cause"),
    [
        ("{clone_from: missing}", "there is no golden container of missing"),
        (
            "{clone_from: postgres-data, template: debian-12, services: {postgres: {version: 15}}}",
            "has another template",
        ),
        ("{clone_from: postgres-data, disk: 8}", "its disk is smaller"),
    ],
)
def test_impossible_clone_is_refused_before_any_change(place: Place, overlay: str, cause: str) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    place.overlaid(f"containers: {{postgres-data: {overlay}}}")
    assert cause in fails(place, lambda: place.up(ONE)).brief
    assert place.pve.kinds() == []


def test_plan_names_the_golden_container(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    (line,) = preview(make_session(place.inventory, place.known_hosts), limit=[ONE]).up
    assert "golden/postgres-data (100, created at " in line.change


def test_doctor_checks_the_golden_container(place: Place) -> None:
    def golden_checks() -> list[tuple[bool, str]]:
        checks = proxmox_checks(Client(place.inventory.endpoint), place.inventory, time.time, lambda addresses: {})
        return [(check.ok, check.said) for check in checks if check.name == "golden container for postgres-data"]

    place.overlaid(CLONED)
    ((ok, why),) = golden_checks()
    assert (ok, why.partition(".")[0]) == (
        False,
        "Cannot clone postgres-data: there is no golden container of postgres-data",
    )
    place.overlaid("").up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    ((ok, why),) = golden_checks()
    assert ok
    assert "golden/postgres-data (100, created at 2" in why
    place.up(ONE)
    assert golden_checks() == []


def test_unexpected_host_key_of_a_clone_is_refused(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    # The clone presents a key that the golden container's description does not name.
    place.pve.keys[100] = "SHA256:" + "x" * 43
    error = fails(place, lambda: place.up(ONE))
    assert "an unknown SSH host key" in error.brief
    assert ONE not in place.known_hosts.pins()
    assert "regenerate identity of postgres-data" in str(place.asked[-1]) or place.pve.ct(167).config["memory"] == 4096
    fails(place, lambda: place.up(ONE))
    assert done(place, "vzclone") == {"100": 1}


# ------------------------------------------------------------- killed anywhere


class Killed(BaseException):
    """A simulated `kill -9`: no cleanup code may catch it and continue."""


def run_killed_at(place: Place, number: int, arrived: bool, act: Callable[[], object]) -> bool:
    """Run `act`, let its n-th call to the API or into a container and all later ones fail; return if it was killed.

    With `arrived`, only changing calls count, and the n-th still takes effect. Without it, the n-th has no effect, and
    reads of tasks count, too.
    """
    call, count, lock = Client._call, 0, threading.Lock()

    def here(counts: bool = True) -> bool:
        nonlocal count
        with lock:
            count += counts
            return count >= number

    def dying(self: Client, method: str, path: str, params: dict[str, Any]) -> Any:
        if here(method != "get" or (not arrived and "/tasks/" in path)):
            if arrived and count == number and method != "get":
                call(self, method, path, params)
            raise Killed
        return call(self, method, path, params)

    def into(command: str) -> None:
        if here(not arrived) and not arrived:
            raise Killed

    def out_of(command: str) -> None:
        if arrived and here(command in (PREPARE, TAKE)):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_call", dying)
        patch.setattr(place.guests, "before", into)
        patch.setattr(place.guests, "after", out_of)
        try:
            act()
        except Killed:
            return True
        return False


def slowly(place: Place) -> None:
    """Slow down clones."""
    place.pve.time_scale, place.pve.ct_secs["clone"] = 1.0, 0.5


def test_clone_of_a_killed_up_is_waited_for(place: Place) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    slowly(place)
    assert run_killed_at(place, 1, arrived=True, act=lambda: place.up(ONE))
    assert place.pve.ct(167).lock == "create"
    place.up(ONE)
    assert_finished(place)
    assert done(place, "vzclone") == {"100": 1}


@pytest.mark.parametrize("then", ["golden create", "up"])
def test_copy_of_a_killed_golden_create_is_waited_for(place: Place, then: str) -> None:
    place.up(ONE)
    place.pve.tasklog.clear()
    slowly(place)
    assert run_killed_at(place, 2, arrived=True, act=place.create_golden)
    assert (place.pve.ct(167).status, place.pve.ct(167).lock) == ("stopped", "disk")
    if then == "up":
        place.up(ONE)
        assert place.pve.ct(167).status == "running"
    place.create_golden()
    assert done(place, "vzclone") == done(place, "vzshutdown") == {"167": 1}
    assert ([ct.vmid for ct in place.goldens], place.pve.ct(167).status) == ([100], "running")


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("POST", "/clone"), ("POST", "/template"), ("PUT", "/100/config"), ("POST", "/shutdown"), ("DELETE", "/lxc/100")],
)
def test_lost_answers_during_golden_create(place: Place, method: str, suffix: str) -> None:
    place.up(ONE)
    if method == "DELETE":
        place.create_golden()
    place.pve.tasklog.clear()
    place.pve.losing[method, suffix] = 1
    place.create_golden()
    assert place.pve.losing == {(method, suffix): 0}
    assert len(place.goldens) == 1
    assert done(place, "vzclone") == {"167": 1}
    assert not place.up(ONE)


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/clone"), ("PUT", "/167/config")])
def test_lost_answers_during_a_clone(place: Place, method: str, suffix: str) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()
    place.pve.losing[method, suffix] = 2 if method == "PUT" else 1
    place.up(ONE)
    assert place.pve.losing == {(method, suffix): 0}
    assert_finished(place)
    assert done(place, "vzclone") == {"100": 1}


BOTH = pytest.mark.parametrize("arrived", [False, True], ids=["before", "after"])


def kill_at_every_call(place: Place, arrived: bool, act: Callable[[], object], check: Callable[[], None]) -> int:
    """Kill a run at each of its calls in turn until one completes; check the result of the next run each time."""
    place.pve.time_scale = 1.0
    place.pve.ct_secs |= {"clone": 0.03, "template": 0.03, "destroy": 0.03}
    stage, pins = copy.deepcopy((place.pve.cts, place.pve.keys)), place.known_hosts.pins()
    for number in range(1, 1000):
        place.pve.cts, place.pve.keys = copy.deepcopy(stage)
        place.guests.prepared.clear()
        for name in {*pins, *place.known_hosts.pins()}:
            place.known_hosts.pin(name, pins[name]) if name in pins else place.known_hosts.forget(name)
        place.pve.tasklog.clear()
        cut_off = run_killed_at(place, number, arrived, act)
        act()
        check()
        if not cut_off:
            return number - 1
    raise AssertionError("no run completed")


@BOTH
def test_golden_create_killed_at_every_call(place: Place, arrived: bool) -> None:
    place.up(ONE)
    place.create_golden()

    def check() -> None:
        (made,) = place.goldens
        assert {ct.vmid: (ct.status, ct.lock) for ct in place.pve.cts} == {
            167: ("running", None),
            made.vmid: ("stopped", None),
        }
        # A run that was killed after its last change is followed by a complete second one.
        often = {sum(done(place, kind).values()) for kind in ("vzshutdown", "vzclone", "vztemplate", "vzdestroy")}
        assert often in ({1}, {2})

    assert kill_at_every_call(place, arrived, place.create_golden, check) > 5


@BOTH
def test_up_from_a_golden_container_killed_at_every_call(place: Place, arrived: bool) -> None:
    place.up(ONE)
    place.create_golden()
    place.destroyed_for_cloning()

    def check() -> None:
        assert_finished(place)
        for kind, vmid in (("vzclone", "100"), ("resize", "167"), ("vzshutdown", "167")):
            assert done(place, kind) == {vmid: 1}, kind
        assert len(place.pve.cts) == 2

    assert kill_at_every_call(place, arrived, lambda: place.up(ONE), check) > 8
