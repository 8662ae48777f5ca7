"""`up` and `destroy` with an in-process node, over real TLS."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.destroy import destroy
from homelab.commands.up import up
from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory
from homelab.plan import Plan, plan_up
from homelab.proxmox import Client, find_guests
from homelab.proxmox.properties import options
from homelab.runtime.container_changes import Outcome
from homelab.runtime.container_states import container_states
from tests.integration.fakenode import TOKEN, FakeNode, certificate, inventory_for, serving
from tests.support import make_session, recording

SECRET = secrets.token_hex(16)
NAMES = ["postgres-data", "analytics-platform", "airflow-orchestration"]


@dataclass
class Site:
    """A node, its inventory, and the recorded plans and waits."""

    pve: FakeNode
    inventory: Inventory
    folder: Path
    fingerprint: str
    known_hosts: KnownHosts
    waited: list[str] = field(default_factory=list)
    asked: list[Plan] = field(default_factory=list)
    answer: bool = True

    def up(self, *limit: str) -> Outcome:
        session = make_session(self.inventory, self.known_hosts, connector=recording(self.waited))
        return up(session, confirm=self._confirm, limit=limit)

    def destroy(self, *limit: str) -> Outcome:
        return destroy(make_session(self.inventory, self.known_hosts), confirm=self._confirm, limit=limit)

    def noted(self) -> object:
        """Return the plan's first note, or None."""
        notes = plan_up(self.inventory, find_guests(Client(self.inventory.endpoint), self.inventory)).notes
        return notes[0] if notes else None

    def _confirm(self, plan: Plan) -> bool:
        self.asked.append(plan)
        return self.answer

    def overlaid(self, overlay: str) -> Site:
        """Reload the inventory with an overlay, and return the site."""
        self.inventory = inventory_for(self.folder, self.pve, self.fingerprint, SECRET, overlay)
        return self

    @property
    def containers(self) -> dict[str, Container]:
        return {container.name: container for container in self.inventory.containers}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, str], str]:
    return certificate(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def site(tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    pve = FakeNode(SECRET)
    with serving(pve, pair[0]):
        yield Site(
            pve,
            inventory_for(tmp_path, pve, pair[1], SECRET),
            tmp_path,
            pair[1],
            KnownHosts(tmp_path / ".homelab" / "known"),
        )


def test_up_creates_the_containers(site: Site) -> None:
    outcome = site.up()
    assert sorted(outcome.done) == sorted(NAMES)
    assert all(lines[0].startswith("create ") for lines in outcome.done.values())
    assert sorted(site.waited) == sorted(NAMES)
    for container in site.inventory.containers:
        ct = site.pve.ct(container.vmid)
        assert ct.status == "running"
        assert (ct.config["hostname"], ct.config["memory"], ct.config["unprivileged"]) == (
            container.name,
            container.shape.memory,
            1,
        )
        assert ct.config["features"] == "nesting=1"
        assert ct.config["tags"] == "homelab;homelab-home"
        assert ct.config["rootfs"].endswith("size=16G")
        assert site.known_hosts.pins()[container.name].fingerprint == site.pve.keys[container.vmid]
    assert sorted(site.pve.kinds()) == ["vzcreate"] * 3 + ["vzstart"] * 3
    creates = [body for method, path, body in site.pve.requests if method == "POST" and path.endswith("/lxc")]
    assert all(b"ssh-public-keys=ssh-ed25519" in body for body in creates)
    assert all(b"onboot=1" in body and b"start=1" in body and b"True" not in body for body in creates)


def test_second_up_does_nothing_in_at_most_five_calls(site: Site) -> None:
    site.up()
    site.pve.requests.clear()
    site.waited.clear()
    tasks = len(site.pve.tasklog)
    outcome = site.up()
    assert not outcome
    assert str(outcome) == "Nothing to do: 3 containers match the inventory and run."
    assert len(site.pve.requests) <= 5, site.pve.calls()
    assert {call.split()[0] for call in site.pve.calls()} == {"GET"}
    assert (len(site.pve.tasklog), site.waited, len(site.asked)) == (tasks, [], 1)


@pytest.mark.parametrize("seconds", [1.0, pytest.param(12.0, marks=pytest.mark.slow)])
def test_calls_for_three_containers_do_not_grow_with_the_time_of_their_tasks(site: Site, seconds: float) -> None:
    site.pve.time_scale = 1.0
    site.pve.ct_secs |= {"create": seconds, "start": seconds / 5, "destroy": seconds / 5}
    assert len(site.up().done) == 3
    assert len(site.pve.requests) <= 40, site.pve.calls()
    site.pve.requests.clear()
    for task in site.pve.tasklog:  # as if the containers had been left alone for a while
        task |= {"starttime": task["starttime"] - 600, "endtime": task["endtime"] - 600}
    assert len(site.destroy().done) == 3
    assert len(site.pve.requests) <= 20, site.pve.calls()


def test_limit_restricts_up(site: Site) -> None:
    assert list(site.up("postgres-data").done) == ["postgres-data"]
    assert site.pve.ct(168) is None
    with pytest.raises(InputError, match="Cannot find container nope: it is not in the inventory"):
        site.up("nope")


@pytest.mark.parametrize(
    ("overlay", "most"), [("proxmox: {max_parallel: 1}", 1), ("proxmox: {max_parallel: 2}", 2), ("", 3)]
)
def test_parallel_limits_concurrent_tasks(site: Site, overlay: str, most: int) -> None:
    site.overlaid(overlay)
    site.pve.time_scale = 1.0
    site.pve.ct_secs |= {"create": 0.2, "destroy": 0.2}
    running: list[int] = []
    begin = site.pve.task

    async def counting(*arguments: Any, **options: Any) -> str:
        upid = await begin(*arguments, **options)
        running.append(sum(task["status"] == "running" for task in site.pve.tasklog))
        return upid

    site.pve.task = counting  # type: ignore[method-assign]
    for verb in (site.up, site.destroy):
        running.clear()
        verb()
        assert min(2, most) <= max(running) <= most


def test_nothing_is_changed_without_confirmation(site: Site) -> None:
    site.answer = False
    assert str(site.up()) == "Nothing was changed."
    assert site.pve.calls("POST") == []


@pytest.mark.parametrize("tags", ["", "homelab", "homelab;homelab-other"])
def test_foreign_container_is_refused_and_unchanged(site: Site, tags: str) -> None:
    foreign = site.pve.add_ct(168, "paperless", node="pve", config={"tags": tags} if tags else {})
    before = dict(foreign.config)
    brief = "Cannot use vmid 168 for analytics-platform: it belongs to a container that is not ours"
    with pytest.raises(HomelabError, match=brief) as caught:
        site.up()
    assert "`paperless` on node pve" in caught.value.details
    assert foreign.config == before
    assert [call for call in site.pve.calls() if not call.startswith("GET")] == []
    assert site.pve.ct(167) is None
    assert not site.destroy()
    assert site.pve.ct(168) is foreign


def test_virtual_machine_on_our_vmid_is_refused(site: Site) -> None:
    site.pve.add_vm(169, "windows", node="pve")
    with pytest.raises(HomelabError, match="it belongs to a virtual machine"):
        site.up()


def test_drift_is_corrected_in_place(site: Site) -> None:
    site.up()
    ct = site.pve.ct(168)
    address = ct.config["net0"]
    ct.config |= {"memory": 512, "cores": 1, "onboot": 0, "tags": "homelab;homelab-home;mine", "description": "x\n"}
    outcome = site.up()
    (line,) = outcome.done["analytics-platform"]
    assert "cores: 1 → 2; memory: 512 → 4096; onboot: False → True" in line
    assert (ct.config["memory"], ct.config["cores"], ct.config["onboot"]) == (4096, 2, 1)
    assert ct.config["net0"] == address
    assert ct.status == "running"
    assert site.waited.count("analytics-platform") == 1
    assert not site.up()


def test_new_address_keeps_the_mac(site: Site) -> None:
    site.up()
    mac = site.pve.ct(167).config["net0"].partition("hwaddr=")[2][:17]
    site.overlaid("containers: {postgres-data: {ip: .77}}\nnetwork: {vlan: 7}").up("postgres-data")
    net0 = site.pve.ct(167).config["net0"]
    assert {f"hwaddr={mac}", "ip=192.168.2.77/24", "tag=7", "gw=192.168.2.1"} <= set(net0.split(","))


def test_pending_changes_lead_to_a_restart(site: Site) -> None:
    site.up()
    site.overlaid("network: {nameservers: [.1, 9.9.9.9]}")
    lines = site.up("postgres-data").done["postgres-data"]
    assert [line.split()[0] for line in lines] == ["update", "stop", "start"]
    assert site.asked[-1].harms
    assert site.pve.ct(167).config["nameserver"] == "192.168.2.1 9.9.9.9"
    # Killed between update and restart: Proxmox lists the change as pending.
    site.pve.ct(168).pending["nameserver"] = "192.168.2.1 9.9.9.9"
    lines = site.up("analytics-platform").done["analytics-platform"]
    assert [line.split()[0] for line in lines] == ["stop", "start"]
    assert site.pve.ct(168).config["nameserver"] == "192.168.2.1 9.9.9.9"
    # A setting removed from the inventory falls back to the node's.
    site.overlaid("").up("postgres-data")
    assert "nameserver" not in site.pve.ct(167).config


def test_disk_grows_and_never_shrinks(site: Site) -> None:
    site.up()
    site.overlaid("containers: {postgres-data: {disk: 20}}").up()
    assert site.pve.ct(167).config["rootfs"].endswith("size=20G")
    with pytest.raises(HomelabError, match="Cannot shrink the disk of postgres-data"):
        site.overlaid("containers: {postgres-data: {disk: 8}}").up()
    assert site.pve.ct(167).config["rootfs"].endswith("size=20G")


def test_stopped_container_is_started(site: Site) -> None:
    site.up()
    site.pve.ct(167).status = "stopped"
    site.waited.clear()
    assert site.up().done == {"postgres-data": ["start postgres-data"]}
    assert site.pve.ct(167).status == "running"
    assert site.waited == ["postgres-data"]


def test_running_start_is_waited_for_and_not_repeated(site: Site) -> None:
    site.up()
    ct = site.pve.ct(167)
    ct.status, ct.start_secs, site.pve.time_scale = "stopped", 0.4, 1.0
    Client(site.inventory.endpoint).post("nodes/pve/lxc/167/status/start")
    before = site.pve.kinds().count("vzstart")
    site.waited.clear()
    # The start ends before the plan, so only the wait for SSH is left.
    assert str(site.up()).startswith("Nothing to do")
    assert (site.pve.kinds().count("vzstart"), ct.status, site.waited) == (before, "running", ["postgres-data"])


def test_concurrent_change_is_not_overwritten(site: Site) -> None:
    site.up()
    ct = site.pve.ct(167)
    ct.config["memory"] = 512

    def confirm(plan: Plan) -> bool:
        ct.config["memory"] = 777
        return True

    site._confirm = confirm  # type: ignore[method-assign]
    before = site.pve.calls("PUT")
    with pytest.raises(HomelabError, match="postgres-data: it was changed after the plan was made") as caught:
        site.up()
    assert "Run the same command again" in caught.value.resolution
    assert (ct.config["memory"], site.pve.calls("PUT")) == (777, before)


def test_changed_vmid_is_refused(site: Site) -> None:
    site.up()
    with pytest.raises(HomelabError, match="Cannot create postgres-data: it already exists as 167"):
        site.overlaid("containers: {postgres-data: {vmid: 267}}").up()


def test_lost_pin_is_read_from_the_create_log(site: Site) -> None:
    site.up()
    site.known_hosts.forget("postgres-data")
    assert not site.up()
    assert site.known_hosts.pins()["postgres-data"].fingerprint == site.pve.keys[167]


def test_lost_pin_without_a_log_has_a_resolution(site: Site) -> None:
    site.up()
    site.known_hosts.forget("postgres-data")
    site.pve.tasklog[:] = [task for task in site.pve.tasklog if task["id"] != "167"]
    with pytest.raises(HomelabError, match="its SSH host key is unknown") as caught:
        site.up()
    assert "pct exec 167" in caught.value.resolution


def test_destroy_is_idempotent(site: Site) -> None:
    site.up()
    foreign = site.pve.add_ct(500, "paperless", node="pve")
    site.pve.cts.remove(site.pve.ct(169))
    outcome = site.destroy()
    assert sorted(outcome.done) == ["analytics-platform", "postgres-data"]
    assert site.pve.cts == [foreign]
    assert site.known_hosts.pins() == {}
    assert str(site.destroy()) == "Nothing to do: none of the lab's containers exists."
    assert site.up().done.keys() == set(NAMES)


def test_destroy_asks_for_confirmation(site: Site) -> None:
    site.up()
    site.answer = False
    assert str(site.destroy()) == "Nothing was changed."
    assert len(site.pve.cts) == 3
    assert site.asked[-1].harms


def test_status_of_running_drifted_and_missing_containers(site: Site) -> None:
    site.up("postgres-data", "analytics-platform")
    site.pve.ct(168).config["memory"] = 512
    site.pve.ct(168).status = "stopped"
    postgres, analytics, airflow = container_states(site.inventory)[0]
    assert (postgres.running, postgres.cores, postgres.memory_total, postgres.drift) == (True, 1, 2 << 30, ())
    assert (analytics.running, analytics.exists, str(analytics.drift[0])) == (False, True, "memory: 512 → 4096")
    assert (airflow.exists, airflow.status) == (False, "missing")


def test_status_on_an_offline_node_is_unknown(site: Site) -> None:
    site.up()
    site.pve.set_node_offline("pve")
    assert {state.status for state in container_states(site.inventory)[0]} == {"unknown"}
    with pytest.raises(HomelabError):
        site.up()


@pytest.fixture
def slow_create(site: Site) -> Callable[[], None]:
    """Start a slow create, as left by a run that was killed right afterwards."""

    def begin(user: str = TOKEN, seconds: float = 0.4) -> None:
        site.pve.time_scale = 1.0
        site.pve.ct_secs["create"] = seconds
        if user != TOKEN:
            site.pve.apitokens[user] = SECRET
        container = site.containers["postgres-data"]
        client = Client(replace(site.inventory.endpoint, token_id=user))
        client.post(
            "nodes/pve/lxc",
            vmid=167,
            ostemplate="local:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst",
            rootfs="local-lvm:16",
            start=1,
            **options(container.shape),
        )

    return begin


def test_running_create_is_waited_for(site: Site, slow_create: Callable[..., None]) -> None:
    slow_create()
    assert site.pve.ct(167).lock == "create"
    site.up("postgres-data")
    assert site.pve.kinds().count("vzcreate") == 1
    assert site.pve.ct(167).status == "running"
    assert site.known_hosts.pins()["postgres-data"].fingerprint == site.pve.keys[167]


def test_destroy_of_an_unfinished_container(site: Site, slow_create: Callable[..., None]) -> None:
    slow_create()
    assert list(site.destroy("postgres-data").done) == ["postgres-data"]
    assert site.pve.ct(167) is None


def test_create_by_another_user_is_refused(site: Site, slow_create: Callable[..., None]) -> None:
    slow_create(user="other@pve!x")
    with pytest.raises(HomelabError, match="Cannot create 167: another task is creating it") as caught:
        site.up()
    assert "other@pve!x" in caught.value.details


def test_leftover_lock_names_pct_unlock(site: Site) -> None:
    site.pve.add_ct(167, node="pve", config={"lock": "create"}, defaults=False)
    for act in (site.up, site.destroy):
        with pytest.raises(HomelabError, match="Cannot use 167: its creation was interrupted") as caught:
            act()
        assert "pct unlock 167" in caught.value.resolution


def test_locked_container_is_refused_only_if_it_has_actions(site: Site) -> None:
    site.up()
    site.pve.ct(167).lock = "backup"
    assert not site.up()
    site.pve.ct(167).config["memory"] = 512
    with pytest.raises(HomelabError, match=r"Cannot change postgres-data: it is locked \(backup\)"):
        site.up()


def test_container_that_left_the_inventory_is_named_and_kept(site: Site) -> None:
    site.up()
    site.overlaid("")
    kept = tuple(each for each in site.inventory.containers if each.name != "airflow-orchestration")
    site.inventory = replace(site.inventory, containers=kept)
    expected = (
        "airflow-orchestration: 169 on node pve has this lab's tags and is not in the inventory: left unchanged. To "
        "remove it with its data: `homelab destroy --orphans --limit airflow-orchestration`"
    )
    assert str(site.noted()) == expected
    states, notes = container_states(site.inventory)
    assert ([state.name for state in states], list(map(str, notes))) == (NAMES[:2], [expected])
    assert not site.up()
    site.destroy()
    assert [ct.vmid for ct in site.pve.cts] == [169]


def test_renamed_container_keeps_its_pinned_key(site: Site) -> None:
    site.up()
    site.pve.tasklog.clear()  # the log of its creation has rotated away
    first = site.inventory.containers[0]
    renamed = replace(first, name="db", shape=replace(first.shape, hostname="db"))
    site.inventory = replace(site.inventory, containers=(renamed, *site.inventory.containers[1:]))
    done = site.up().done
    assert "update db: hostname: postgres-data → db" in done["db"][1]
    assert site.pve.ct(167).config["hostname"] == "db"
    assert sorted(site.known_hosts.pins()) == sorted(["db", *NAMES[1:]])
    assert site.known_hosts.pins()["db"].fingerprint == site.pve.keys[167]
    assert site.up().done == {}


def test_container_that_left_the_inventory_is_removed_by_name_after_a_question(site: Site) -> None:
    site.up()
    orphan, kept = site.inventory.containers[0], site.inventory.containers[1:]
    foreign = site.pve.add_ct(300, "paperless", node="pve", config={"tags": "homelab;homelab-other"})
    site.inventory = replace(site.inventory, containers=tuple(kept))
    (note,) = plan_up(site.inventory, find_guests(Client(site.inventory.endpoint), site.inventory)).notes
    assert "`homelab destroy --orphans --limit postgres-data`" in note.text

    def remove(*limit: str) -> Outcome:
        session = make_session(site.inventory, site.known_hosts)
        return destroy(session, confirm=site._confirm, limit=limit, orphans=True)

    with pytest.raises(InputError, match="Cannot find container analytics-platform"):
        remove("analytics-platform")
    site.answer = False
    assert str(remove()) == "Nothing was changed."
    assert site.pve.ct(167)
    site.answer = True
    assert remove("postgres-data").done == {"postgres-data": ["destroy postgres-data (167) and its disk"]}
    assert [site.pve.ct(vmid) is None for vmid in (167, 168, 169)] == [True, False, False]
    assert site.pve.ct(300) is foreign
    assert sorted(site.known_hosts.pins()) == sorted(NAMES[1:])
    assert str(remove()) == "Nothing to do: the inventory has all containers of the lab."
    assert orphan.name not in site.known_hosts.pins()


def test_removal_of_an_orphan_keeps_the_host_key_of_the_container_with_its_name(site: Site) -> None:
    site.up()
    site.pve.add_ct(300, "postgres-data", node="pve", config={**site.pve.ct(167).config, "hostname": "postgres-data"})
    pin = site.known_hosts.pins()["postgres-data"]
    destroy(make_session(site.inventory, site.known_hosts), confirm=site._confirm, orphans=True)
    assert [site.pve.ct(vmid) is None for vmid in (167, 300)] == [False, True]
    assert site.known_hosts.pins()["postgres-data"] == pin


def test_protected_container_that_left_the_inventory_is_refused(site: Site) -> None:
    site.up()
    site.pve.ct(167).config["protection"] = 1
    site.inventory = replace(site.inventory, containers=site.inventory.containers[1:])
    with pytest.raises(HomelabError, match="Cannot destroy postgres-data: it is protected") as caught:
        destroy(make_session(site.inventory, site.known_hosts), confirm=site._confirm, orphans=True)
    assert "pct set 167 --protection 0" in caught.value.resolution
    assert site.pve.ct(167)
