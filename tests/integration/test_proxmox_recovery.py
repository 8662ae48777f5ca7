"""What goes wrong on the way: what the user sees, in three parts, and what the next run does."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakepve.server import TaskError

from homelab.errors import HomelabError
from homelab.plan import Plan
from homelab.proxmox import Client, find_guests, plan_executor
from homelab.runtime.container_changes import Interrupted
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

ONE = "postgres-data"


def fails(site: Site, *limit: str, verb: str = "up") -> HomelabError:
    """The error that a verb ends with: it says what happened, why, and what to do."""
    with pytest.raises(HomelabError) as caught:
        getattr(site, verb)(*limit)
    error = caught.value
    assert all(part.strip() for part in (error.brief, error.details, error.resolution)), error
    assert "\n" not in error.brief
    assert "\n" not in error.resolution
    assert SECRET not in str(error)
    return error


def finished(site: Site, *limit: str) -> None:
    """The next run finishes the job: one of each, made once, running, its key pinned, and nothing is left to do."""
    site.up(*limit)
    whole(site, *limit)
    assert not site.up(*limit)


def whole(site: Site, *limit: str) -> None:
    wanted = {c.vmid: c.name for c in site.inventory.containers if not limit or c.name in limit}
    assert {ct.vmid: ct.config["hostname"] for ct in site.pve.cts} == wanted
    assert {ct.status for ct in site.pve.cts} == {"running"}
    assert {ct.lock for ct in site.pve.cts} == {None}
    pins = {name: pin.fingerprint for name, pin in site.known_hosts.pins().items()}
    assert pins == {name: site.pve.keys[vmid] for vmid, name in wanted.items()}


def done(site: Site, kind: str) -> Counter[str]:
    """How many tasks of a kind ended well, by vmid."""
    return Counter(task["id"] for task in site.pve.tasklog if task["type"] == kind and task["exitstatus"] == "OK")


# ------------------------------------------------------------- the way there


def test_the_node_cannot_be_reached(site: Site) -> None:
    good = site.inventory
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        site.inventory = replace(good, endpoint=replace(good.endpoint, port=sock.getsockname()[1]))
        error = fails(site)
    assert "cannot be reached" in error.brief
    assert "Connection refused" in error.details
    site.inventory = good
    finished(site)


def test_another_certificate(site: Site) -> None:
    good = site.inventory
    site.inventory = replace(good, endpoint=replace(good.endpoint, fingerprint="AB:" * 31 + "AB"))
    error = fails(site)
    assert "does not show the pinned certificate" in error.brief
    assert site.fingerprint in error.details
    assert site.pve.requests == []
    site.inventory = good
    finished(site)


def test_a_wrong_token(site: Site) -> None:
    site.pve.apitokens[TOKEN] = "another"
    error = fails(site)
    assert f"refused the token {TOKEN}" in error.brief
    assert "pveum user token list homelab@pve" in error.resolution
    site.pve.apitokens[TOKEN] = SECRET
    finished(site)


def test_a_missing_privilege_is_named(site: Site) -> None:
    site.pve.grant_least(site.inventory, without="VM.PowerMgmt")
    error = fails(site, ONE)
    assert "VM.PowerMgmt on /vms/167" in error.resolution
    assert "pveum role modify HomelabContainers --append 1 --privs VM.PowerMgmt" in error.resolution
    site.pve.grant_least(site.inventory)
    finished(site, ONE)


@pytest.mark.parametrize("seed", range(4))
def test_connections_that_drop_now_and_then_do_not_show(site: Site, seed: int) -> None:
    site.pve._random.seed(seed)
    site.pve.flaky_network(drop_rate=0.05)
    site.up()
    site.pve.flaky_network(drop_rate=0.0)
    whole(site)
    assert set(done(site, "vzcreate").values()) == {1}
    assert set(done(site, "vzstart").values()) == {1}


@pytest.mark.parametrize(
    ("method", "suffix", "status"),
    [
        ("GET", "/cluster/resources", 503),
        ("GET", "/cluster/resources", 500),
        ("GET", "/status", 596),
        ("GET", "/log", 502),
        ("GET", "/tasks", 500),
        ("POST", "/lxc", 502),
        ("POST", "/lxc", 599),
    ],
)
def test_errors_that_pass_do_not_show(site: Site, method: str, suffix: str, status: int) -> None:
    site.pve.fail(method, suffix, status, "try again", times=2)
    site.up()
    whole(site)
    assert set(done(site, "vzcreate").values()) == {1}


def test_errors_that_stay_are_shown(site: Site) -> None:
    site.pve.fail("GET", "/cluster/resources", 503, "Service Unavailable")
    error = fails(site)
    assert "cannot answer right now" in error.brief
    assert "503 Service Unavailable" in error.details
    assert len(site.pve.requests) == 5
    site.pve.failures.clear()
    finished(site)


@pytest.mark.parametrize(
    ("method", "suffix", "act"),
    [
        ("POST", "/nodes/pve/lxc", "create"),
        ("POST", "/167/status/start", "start"),
        ("POST", "/167/status/shutdown", "change"),
        ("PUT", "/167/resize", "change"),
        ("PUT", "/167/config", "change"),
        ("DELETE", "/lxc/167", "destroy"),
    ],
)
def test_a_change_whose_answer_is_lost_is_looked_for_and_not_made_twice(
    site: Site, method: str, suffix: str, act: str
) -> None:
    if act != "create":
        site.up(ONE)
    site.pve.requests.clear()
    if act == "start":
        site.pve.ct(167).status = "stopped"
    if act == "change":
        site.overlaid("network: {nameservers: [.1]}\ncontainers: {postgres-data: {disk: 20}}")
    site.pve.losing[method, suffix] = 1
    if act == "destroy":
        site.destroy(ONE)
        assert site.pve.cts == []
    else:
        site.up(ONE)
        whole(site, ONE)
        assert not site.up(ONE)
    assert site.pve.losing == {(method, suffix): 0}
    assert len([call for call in site.pve.calls(method) if call.endswith(suffix)]) == 1


def test_a_change_that_somebody_made_while_our_answer_was_lost(site: Site) -> None:
    site.up(ONE)
    site.overlaid("containers: {postgres-data: {memory: 4096}}")
    site.pve.fail("PUT", "/config", 502, "Bad Gateway", times=1)
    ask, ct = Client.get, site.pve.ct(167)

    def meddle(self: Client, path: str, **params: Any) -> Any:
        if any(call.endswith("/config") for call in site.pve.calls("PUT")):
            ct.config["cores"] = 4
        return ask(self, path, **params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "get", meddle)
        assert "was changed after the plan was made" in fails(site, ONE).brief
    assert ct.config["memory"] == 2048
    finished(site, ONE)


def test_one_that_goes_away_while_it_is_looked_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.up(ONE)
    ask = Client.get

    def and_gone(self: Client, path: str, **params: Any) -> Any:
        rows = ask(self, path, **params)
        if path == "nodes/pve/lxc":
            site.pve.cts.clear()
        return rows

    monkeypatch.setattr(Client, "get", and_gone)
    assert find_guests(Client(site.inventory.endpoint), site.inventory) == {}


# --------------------------------------------------------------- on the node


def test_a_full_storage(site: Site) -> None:
    async def full(*_: Any) -> None:
        raise TaskError("command 'lvcreate' failed: Insufficient free space")

    good, site.pve.ceph_io = site.pve.ceph_io, full
    error = fails(site, ONE)
    assert error.brief == "postgres-data: creating it failed"
    assert "Insufficient free space" in error.details
    assert "TASK ERROR: unable to create CT 167" in error.details
    assert site.pve.cts == []
    site.pve.ceph_io = good
    finished(site, ONE)


def test_a_start_that_fails_after_a_good_create(site: Site) -> None:
    begin = site.pve._start_steps

    async def broken(ct: Any, user: str, skiplock: bool = False) -> None:
        raise TaskError("bridge 'vmbr0' does not exist")

    site.pve._start_steps = broken  # type: ignore[method-assign]
    error = fails(site, ONE)
    assert error.brief == "postgres-data: starting it failed"
    assert "bridge 'vmbr0' does not exist" in error.details
    site.pve._start_steps = begin  # type: ignore[method-assign]
    finished(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


def test_a_task_that_outlasts_the_deadline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 0.6
    monkeypatch.setattr(plan_executor, "_CREATE", 0.1)
    error = fails(site, ONE)
    assert "vzcreate of 167 has not ended after 0 s" in error.brief
    assert "UPID:pve:" in error.details
    finished(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


def test_somebody_holds_the_configs_lock(site: Site) -> None:
    site.up(ONE)
    site.overlaid("containers: {postgres-data: {memory: 4096}}")
    asyncio.run(site.pve.hold_config_lock(167, None))
    error = fails(site, ONE)
    assert "locked" in error.brief
    assert "can't lock file" in error.details
    assert "pct unlock 167" in error.resolution
    site.pve.release_config_lock(167)
    finished(site, ONE)


def test_locked_by_a_create(site: Site) -> None:
    site.up(ONE)
    site.pve.snapshot_lock(167, "create")
    with pytest.raises(HomelabError, match="The container is locked") as caught:
        Client(site.inventory.endpoint).delete("nodes/pve/lxc/167", force=True)
    assert "CT is locked (create)" in caught.value.details
    assert "167 is half made" in fails(site, ONE, verb="destroy").brief
    site.pve.unlock(167)
    site.destroy(ONE)
    assert site.pve.cts == []


def test_a_vmid_that_is_taken_after_the_plan(site: Site) -> None:
    def confirm(plan: Plan) -> bool:
        site.pve.add_ct(167, "paperless", node="pve")
        return True

    good, site._confirm = site._confirm, confirm  # type: ignore[method-assign]
    error = fails(site, ONE)
    assert error.brief == "postgres-data: vmid 167 was taken after the plan was made"
    assert "`paperless` on node pve" in error.details
    site._confirm = good  # type: ignore[method-assign]
    assert "taken by a container that is not ours" in fails(site, ONE).brief
    site.pve.cts.clear()
    finished(site, ONE)


def test_a_cluster_without_quorum(site: Site) -> None:
    site.pve.lose_quorum()
    error = fails(site, ONE)
    assert "no quorum" in error.brief
    assert "pvecm status" in error.resolution
    assert site.pve.cts == []
    site.pve.regain_quorum()
    finished(site, ONE)


def test_a_token_that_expires_in_mid_run(site: Site) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 0.3
    expire = threading.Timer(0.15, lambda: site.pve.apitokens.update({TOKEN: "expired"}))
    expire.start()
    error = fails(site, ONE)
    expire.join()
    assert f"refused the token {TOKEN}" in error.brief
    site.pve.apitokens[TOKEN] = SECRET
    finished(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell has started the tests in the background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_says_what_goes_on_without_us(site: Site) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 1.5

    def when_all_are_waited_for() -> None:
        until = time.monotonic() + 10
        while len({c for c in site.pve.calls("GET") if "vzcreate" in c}) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Thread(target=when_all_are_waited_for)
    interrupt.start()
    with pytest.raises(Interrupted) as caught:
        site.up()
    interrupt.join()
    assert caught.value.exit_code == 130
    for vmid in (167, 168, 169):
        assert f"vzcreate of {vmid} on pve: UPID:pve:" in caught.value.details
    assert "waits for what still runs" in caught.value.resolution
    finished(site)
    assert done(site, "vzcreate") == {"167": 1, "168": 1, "169": 1}


def test_what_a_task_changed_while_we_looked_is_seen(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.up(ONE)
    site.overlaid("containers: {postgres-data: {memory: 4096}}")
    call, ended = Client._call, []

    def late(self: Client, method: str, path: str, params: dict[str, Any]) -> Any:
        if path.endswith("/tasks") and not ended:
            # As if a killed run's task had ended since the configuration was read: it is not among the running ones.
            ended.append(path)
            site.pve.ct(167).config["cores"] = 7
        return call(self, method, path, params)

    monkeypatch.setattr(Client, "_call", late)
    site.up(ONE)
    assert ended
    config = site.pve.ct(167).config
    assert (config["memory"], config["cores"]) == (4096, 1)
