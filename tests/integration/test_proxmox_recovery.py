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
from tests.integration.test_proxmox_up import context as context
from tests.integration.test_proxmox_up import pair as pair

ONE = "postgres-data"


def fails(context: Site, *limit: str, verb: str = "up") -> HomelabError:
    """The error that a verb ends with: it says what happened, why, and what to do."""
    with pytest.raises(HomelabError) as caught:
        getattr(context, verb)(*limit)
    error = caught.value
    assert all(part.strip() for part in (error.brief, error.details, error.resolution)), error
    assert "\n" not in error.brief
    assert "\n" not in error.resolution
    assert SECRET not in str(error)
    return error


def finished(context: Site, *limit: str) -> None:
    """The next run finishes the job: one of each, made once, running, its key pinned, and nothing is left to do."""
    context.up(*limit)
    whole(context, *limit)
    assert not context.up(*limit)


def whole(context: Site, *limit: str) -> None:
    wanted = {c.vmid: c.name for c in context.inventory.containers if not limit or c.name in limit}
    assert {ct.vmid: ct.config["hostname"] for ct in context.pve.cts} == wanted
    assert {ct.status for ct in context.pve.cts} == {"running"}
    assert {ct.lock for ct in context.pve.cts} == {None}
    pins = {name: pin.fingerprint for name, pin in context.known_hosts.pins().items()}
    assert pins == {name: context.pve.keys[vmid] for vmid, name in wanted.items()}


def done(context: Site, kind: str) -> Counter[str]:
    """How many tasks of a kind ended well, by vmid."""
    return Counter(task["id"] for task in context.pve.tasklog if task["type"] == kind and task["exitstatus"] == "OK")


# ------------------------------------------------------------- the way there


def test_the_node_cannot_be_reached(context: Site) -> None:
    good = context.inventory
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        context.inventory = replace(good, endpoint=replace(good.endpoint, port=sock.getsockname()[1]))
        error = fails(context)
    assert "cannot be reached" in error.brief
    assert "Connection refused" in error.details
    context.inventory = good
    finished(context)


def test_another_certificate(context: Site) -> None:
    good = context.inventory
    context.inventory = replace(good, endpoint=replace(good.endpoint, fingerprint="AB:" * 31 + "AB"))
    error = fails(context)
    assert "does not show the pinned certificate" in error.brief
    assert context.fingerprint in error.details
    assert context.pve.requests == []
    context.inventory = good
    finished(context)


def test_a_wrong_token(context: Site) -> None:
    context.pve.apitokens[TOKEN] = "another"
    error = fails(context)
    assert f"refused the token {TOKEN}" in error.brief
    assert "pveum user token list homelab@pve" in error.resolution
    context.pve.apitokens[TOKEN] = SECRET
    finished(context)


def test_a_missing_privilege_is_named(context: Site) -> None:
    context.pve.grant_least(context.inventory, without="VM.PowerMgmt")
    error = fails(context, ONE)
    assert "VM.PowerMgmt on /vms/167" in error.resolution
    assert "pveum role modify HomelabContainers --append 1 --privs VM.PowerMgmt" in error.resolution
    context.pve.grant_least(context.inventory)
    finished(context, ONE)


@pytest.mark.parametrize("seed", range(4))
def test_connections_that_drop_now_and_then_do_not_show(context: Site, seed: int) -> None:
    context.pve._random.seed(seed)
    context.pve.flaky_network(drop_rate=0.05)
    context.up()
    context.pve.flaky_network(drop_rate=0.0)
    whole(context)
    assert set(done(context, "vzcreate").values()) == {1}
    assert set(done(context, "vzstart").values()) == {1}


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
def test_errors_that_pass_do_not_show(context: Site, method: str, suffix: str, status: int) -> None:
    context.pve.fail(method, suffix, status, "try again", times=2)
    context.up()
    whole(context)
    assert set(done(context, "vzcreate").values()) == {1}


def test_errors_that_stay_are_shown(context: Site) -> None:
    context.pve.fail("GET", "/cluster/resources", 503, "Service Unavailable")
    error = fails(context)
    assert "cannot answer right now" in error.brief
    assert "503 Service Unavailable" in error.details
    assert len(context.pve.requests) == 5
    context.pve.failures.clear()
    finished(context)


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
    context: Site, method: str, suffix: str, act: str
) -> None:
    if act != "create":
        context.up(ONE)
    context.pve.requests.clear()
    if act == "start":
        context.pve.ct(167).status = "stopped"
    if act == "change":
        context.overlaid("network: {nameservers: [.1]}\ncontainers: {postgres-data: {disk: 20}}")
    context.pve.losing[method, suffix] = 1
    if act == "destroy":
        context.destroy(ONE)
        assert context.pve.cts == []
    else:
        context.up(ONE)
        whole(context, ONE)
        assert not context.up(ONE)
    assert context.pve.losing == {(method, suffix): 0}
    assert len([call for call in context.pve.calls(method) if call.endswith(suffix)]) == 1


def test_a_change_that_somebody_made_while_our_answer_was_lost(context: Site) -> None:
    context.up(ONE)
    context.overlaid("containers: {postgres-data: {memory: 4096}}")
    context.pve.fail("PUT", "/config", 502, "Bad Gateway", times=1)
    ask, ct = Client.get, context.pve.ct(167)

    def meddle(self: Client, path: str, **params: Any) -> Any:
        if any(call.endswith("/config") for call in context.pve.calls("PUT")):
            ct.config["cores"] = 4
        return ask(self, path, **params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "get", meddle)
        assert "was changed after the plan was made" in fails(context, ONE).brief
    assert ct.config["memory"] == 2048
    finished(context, ONE)


def test_one_that_goes_away_while_it_is_looked_at(context: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    context.up(ONE)
    ask = Client.get

    def and_gone(self: Client, path: str, **params: Any) -> Any:
        rows = ask(self, path, **params)
        if path == "nodes/pve/lxc":
            context.pve.cts.clear()
        return rows

    monkeypatch.setattr(Client, "get", and_gone)
    assert find_guests(Client(context.inventory.endpoint), context.inventory) == {}


# --------------------------------------------------------------- on the node


def test_a_full_storage(context: Site) -> None:
    async def full(*_: Any) -> None:
        raise TaskError("command 'lvcreate' failed: Insufficient free space")

    good, context.pve.ceph_io = context.pve.ceph_io, full
    error = fails(context, ONE)
    assert error.brief == "postgres-data: creating it failed"
    assert "Insufficient free space" in error.details
    assert "TASK ERROR: unable to create CT 167" in error.details
    assert context.pve.cts == []
    context.pve.ceph_io = good
    finished(context, ONE)


def test_a_start_that_fails_after_a_good_create(context: Site) -> None:
    begin = context.pve._start_steps

    async def broken(ct: Any, user: str, skiplock: bool = False) -> None:
        raise TaskError("bridge 'vmbr0' does not exist")

    context.pve._start_steps = broken  # type: ignore[method-assign]
    error = fails(context, ONE)
    assert error.brief == "postgres-data: starting it failed"
    assert "bridge 'vmbr0' does not exist" in error.details
    context.pve._start_steps = begin  # type: ignore[method-assign]
    finished(context, ONE)
    assert done(context, "vzcreate") == {"167": 1}


def test_a_task_that_outlasts_the_deadline(context: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    context.pve.time_scale, context.pve.ct_secs["create"] = 1.0, 0.6
    monkeypatch.setattr(plan_executor, "_CREATE", 0.1)
    error = fails(context, ONE)
    assert "vzcreate of 167 has not ended after 0 s" in error.brief
    assert "UPID:pve:" in error.details
    finished(context, ONE)
    assert done(context, "vzcreate") == {"167": 1}


def test_somebody_holds_the_configs_lock(context: Site) -> None:
    context.up(ONE)
    context.overlaid("containers: {postgres-data: {memory: 4096}}")
    asyncio.run(context.pve.hold_config_lock(167, None))
    error = fails(context, ONE)
    assert "locked" in error.brief
    assert "can't lock file" in error.details
    assert "pct unlock 167" in error.resolution
    context.pve.release_config_lock(167)
    finished(context, ONE)


def test_locked_by_a_create(context: Site) -> None:
    context.up(ONE)
    context.pve.snapshot_lock(167, "create")
    with pytest.raises(HomelabError, match="The container is locked") as caught:
        Client(context.inventory.endpoint).delete("nodes/pve/lxc/167", force=True)
    assert "CT is locked (create)" in caught.value.details
    assert "167 is half made" in fails(context, ONE, verb="destroy").brief
    context.pve.unlock(167)
    context.destroy(ONE)
    assert context.pve.cts == []


def test_a_vmid_that_is_taken_after_the_plan(context: Site) -> None:
    def confirm(plan: Plan) -> bool:
        context.pve.add_ct(167, "paperless", node="pve")
        return True

    good, context._confirm = context._confirm, confirm  # type: ignore[method-assign]
    error = fails(context, ONE)
    assert error.brief == "postgres-data: vmid 167 was taken after the plan was made"
    assert "`paperless` on node pve" in error.details
    context._confirm = good  # type: ignore[method-assign]
    assert "taken by a container that is not ours" in fails(context, ONE).brief
    context.pve.cts.clear()
    finished(context, ONE)


def test_a_cluster_without_quorum(context: Site) -> None:
    context.pve.lose_quorum()
    error = fails(context, ONE)
    assert "no quorum" in error.brief
    assert "pvecm status" in error.resolution
    assert context.pve.cts == []
    context.pve.regain_quorum()
    finished(context, ONE)


def test_a_token_that_expires_in_mid_run(context: Site) -> None:
    context.pve.time_scale, context.pve.ct_secs["create"] = 1.0, 0.3
    expire = threading.Timer(0.15, lambda: context.pve.apitokens.update({TOKEN: "expired"}))
    expire.start()
    error = fails(context, ONE)
    expire.join()
    assert f"refused the token {TOKEN}" in error.brief
    context.pve.apitokens[TOKEN] = SECRET
    finished(context, ONE)
    assert done(context, "vzcreate") == {"167": 1}


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell has started the tests in the background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_says_what_goes_on_without_us(context: Site) -> None:
    context.pve.time_scale, context.pve.ct_secs["create"] = 1.0, 1.5

    def when_all_are_waited_for() -> None:
        until = time.monotonic() + 10
        while len({c for c in context.pve.calls("GET") if "vzcreate" in c}) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Thread(target=when_all_are_waited_for)
    interrupt.start()
    with pytest.raises(Interrupted) as caught:
        context.up()
    interrupt.join()
    assert caught.value.exit_code == 130
    for vmid in (167, 168, 169):
        assert f"vzcreate of {vmid} on pve: UPID:pve:" in caught.value.details
    assert "waits for what still runs" in caught.value.resolution
    finished(context)
    assert done(context, "vzcreate") == {"167": 1, "168": 1, "169": 1}


def test_what_a_task_changed_while_we_looked_is_seen(context: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    context.up(ONE)
    context.overlaid("containers: {postgres-data: {memory: 4096}}")
    call, ended = Client._call, []

    def late(self: Client, method: str, path: str, params: dict[str, Any]) -> Any:
        if path.endswith("/tasks") and not ended:
            # As if a killed run's task had ended since the configuration was read: it is not among the running ones.
            ended.append(path)
            context.pve.ct(167).config["cores"] = 7
        return call(self, method, path, params)

    monkeypatch.setattr(Client, "_call", late)
    context.up(ONE)
    assert ended
    config = context.pve.ct(167).config
    assert (config["memory"], config["cores"]) == (4096, 1)
