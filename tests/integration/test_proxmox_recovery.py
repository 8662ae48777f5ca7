"""Failures during a run: the error with its three parts, and the recovery by the next run."""

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
    """Return the error of a failing verb, after checking its three parts."""
    with pytest.raises(HomelabError) as caught:
        getattr(site, verb)(*limit)
    error = caught.value
    assert all(part.strip() for part in (error.brief, error.details, error.resolution)), error
    assert "\n" not in error.brief
    assert "\n" not in error.resolution
    assert SECRET not in str(error)
    return error


def assert_next_run_completes(site: Site, *limit: str) -> None:
    """Check that the next run completes the work: all containers run, keys are pinned, and nothing is left to do."""
    site.up(*limit)
    assert_complete(site, *limit)
    assert not site.up(*limit)


def assert_complete(site: Site, *limit: str) -> None:
    wanted = {c.vmid: c.name for c in site.inventory.containers if not limit or c.name in limit}
    assert {ct.vmid: ct.config["hostname"] for ct in site.pve.cts} == wanted
    assert {ct.status for ct in site.pve.cts} == {"running"}
    assert {ct.lock for ct in site.pve.cts} == {None}
    pins = {name: pin.fingerprint for name, pin in site.known_hosts.pins().items()}
    assert pins == {name: site.pve.keys[vmid] for vmid, name in wanted.items()}


def done(site: Site, kind: str) -> Counter[str]:
    """Count the successful tasks of a kind by vmid."""
    return Counter(task["id"] for task in site.pve.tasklog if task["type"] == kind and task["exitstatus"] == "OK")


# ------------------------------------------------------------ the connection


def test_unreachable_node(site: Site) -> None:
    good = site.inventory
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        site.inventory = replace(good, endpoint=replace(good.endpoint, port=sock.getsockname()[1]))
        error = fails(site)
    assert "Cannot reach Proxmox" in error.brief
    assert "Connection refused" in error.details
    site.inventory = good
    assert_next_run_completes(site)


def test_wrong_certificate(site: Site) -> None:
    good = site.inventory
    site.inventory = replace(good, endpoint=replace(good.endpoint, fingerprint="AB:" * 31 + "AB"))
    error = fails(site)
    assert "its certificate is not the pinned one" in error.brief
    assert site.fingerprint in error.details
    assert site.pve.requests == []
    site.inventory = good
    assert_next_run_completes(site)


def test_wrong_token(site: Site) -> None:
    site.pve.apitokens[TOKEN] = "another"
    error = fails(site)
    assert f"refused the token {TOKEN}" in error.brief
    assert "pveum user token list homelab@pve" in error.resolution
    site.pve.apitokens[TOKEN] = SECRET
    assert_next_run_completes(site)


def test_missing_privilege_is_named(site: Site) -> None:
    site.pve.grant_least(site.inventory, without="VM.PowerMgmt")
    error = fails(site, ONE)
    assert "VM.PowerMgmt on /vms/167" in error.resolution
    assert "pveum role modify HomelabContainers --append 1 --privs VM.PowerMgmt" in error.resolution
    site.pve.grant_least(site.inventory)
    assert_next_run_completes(site, ONE)


@pytest.mark.parametrize("seed", range(4))
def test_occasional_dropped_connections_are_hidden(site: Site, seed: int) -> None:
    site.pve._random.seed(seed)
    site.pve.flaky_network(drop_rate=0.05)
    site.up()
    site.pve.flaky_network(drop_rate=0.0)
    assert_complete(site)
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
def test_transient_errors_are_hidden(site: Site, method: str, suffix: str, status: int) -> None:
    site.pve.fail(method, suffix, status, "try again", times=2)
    site.up()
    assert_complete(site)
    assert set(done(site, "vzcreate").values()) == {1}


def test_lasting_refusal_of_a_read_is_shown_after_three_attempts(site: Site) -> None:
    site.pve.fail("GET", "/cluster/resources", 500, "unable to open file")
    assert "unable to open file" in fails(site).details
    assert len(site.pve.requests) == 3


def test_persistent_errors_are_shown(site: Site) -> None:
    site.pve.fail("GET", "/cluster/resources", 503, "Service Unavailable")
    error = fails(site)
    assert "gateway error" in error.brief
    assert "503 Service Unavailable" in error.details
    assert len(site.pve.requests) == 5
    site.pve.failures.clear()
    assert_next_run_completes(site)


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
def test_change_with_a_lost_answer_is_not_repeated(site: Site, method: str, suffix: str, act: str) -> None:
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
        assert_complete(site, ONE)
        assert not site.up(ONE)
    assert site.pve.losing == {(method, suffix): 0}
    assert len([call for call in site.pve.calls(method) if call.endswith(suffix)]) == 1


def test_concurrent_change_during_a_lost_answer(site: Site) -> None:
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
    assert_next_run_completes(site, ONE)


def test_container_removed_during_a_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_create_on_a_full_storage(site: Site) -> None:
    async def full(*_: Any) -> None:
        raise TaskError("command 'lvcreate' failed: Insufficient free space")

    good, site.pve.ceph_io = site.pve.ceph_io, full
    error = fails(site, ONE)
    assert error.brief == "Cannot create postgres-data: its task failed"
    assert "Insufficient free space" in error.details
    assert "TASK ERROR: unable to create CT 167" in error.details
    assert site.pve.cts == []
    site.pve.ceph_io = good
    assert_next_run_completes(site, ONE)


def test_failed_start_after_a_successful_create(site: Site) -> None:
    begin = site.pve._start_steps

    async def broken(ct: Any, user: str, skiplock: bool = False) -> None:
        raise TaskError("bridge 'vmbr0' does not exist")

    site.pve._start_steps = broken  # type: ignore[method-assign]
    error = fails(site, ONE)
    assert error.brief == "Cannot start postgres-data: its task failed"
    assert "bridge 'vmbr0' does not exist" in error.details
    site.pve._start_steps = begin  # type: ignore[method-assign]
    assert_next_run_completes(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


def test_task_past_its_deadline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 0.6
    monkeypatch.setattr(plan_executor, "_CREATE", 0.1)
    error = fails(site, ONE)
    assert "Cannot finish vzcreate of 167: no end after 0 s" in error.brief
    assert "UPID:pve:" in error.details
    assert_next_run_completes(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


def test_locked_configuration_file(site: Site) -> None:
    site.up(ONE)
    site.overlaid("containers: {postgres-data: {memory: 4096}}")
    asyncio.run(site.pve.hold_config_lock(167, None))
    error = fails(site, ONE)
    assert "locked" in error.brief
    assert "can't lock file" in error.details
    assert "pct unlock 167" in error.resolution
    site.pve.release_config_lock(167)
    assert_next_run_completes(site, ONE)


def test_container_locked_by_a_create(site: Site) -> None:
    site.up(ONE)
    site.pve.snapshot_lock(167, "create")
    with pytest.raises(HomelabError, match="Cannot change the container: it is locked") as caught:
        Client(site.inventory.endpoint).delete("nodes/pve/lxc/167", force=True)
    assert "CT is locked (create)" in caught.value.details
    assert "Cannot use 167: its creation was interrupted" in fails(site, ONE, verb="destroy").brief
    site.pve.unlock(167)
    site.destroy(ONE)
    assert site.pve.cts == []


def test_vmid_taken_after_the_plan(site: Site) -> None:
    def confirm(plan: Plan) -> bool:
        site.pve.add_ct(167, "paperless", node="pve")
        return True

    good, site._confirm = site._confirm, confirm  # type: ignore[method-assign]
    error = fails(site, ONE)
    assert error.brief == "Cannot create postgres-data: vmid 167 was taken after the plan was made"
    assert "`paperless` on node pve" in error.details
    site._confirm = good  # type: ignore[method-assign]
    assert "it belongs to a container that is not ours" in fails(site, ONE).brief
    site.pve.cts.clear()
    assert_next_run_completes(site, ONE)


def test_cluster_without_quorum(site: Site) -> None:
    site.pve.lose_quorum()
    error = fails(site, ONE)
    assert "no quorum" in error.brief
    assert "pvecm status" in error.resolution
    assert site.pve.cts == []
    site.pve.regain_quorum()
    assert_next_run_completes(site, ONE)


def test_token_expires_during_a_run(site: Site) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 0.3
    expire = threading.Timer(0.15, lambda: site.pve.apitokens.update({TOKEN: "expired"}))
    expire.start()
    error = fails(site, ONE)
    expire.join()
    assert f"refused the token {TOKEN}" in error.brief
    site.pve.apitokens[TOKEN] = SECRET
    assert_next_run_completes(site, ONE)
    assert done(site, "vzcreate") == {"167": 1}


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Set Python's SIGINT handler, which a shell may have disabled for tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize(
    ("patience", "listed"),
    [
        pytest.param(10.0, "vzcreate of {} on pve: UPID:pve:", id="answered-soon"),
        pytest.param(0.1, "POST /nodes/pve/lxc: sent, and not yet answered", id="answered-later"),
    ],
)
def test_ctrl_c_lists_the_tasks_of_changes_that_are_not_yet_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch, patience: float, listed: str
) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 3.0
    all_sent = threading.Barrier(3, action=lambda: signal.pthread_kill(main, signal.SIGINT))
    monkeypatch.setattr("homelab.proxmox.client._LAST_ANSWERS", patience)
    call, interrupted = Client._call, []

    def slow(self: Client, method: str, path: str, params: dict[str, Any]) -> Any:
        answer = call(self, method, path, params)
        if method == "post" and path == "nodes/pve/lxc" and len(interrupted) < 3:
            interrupted.append(path)
            all_sent.wait(10)
            time.sleep(1)
        return answer

    monkeypatch.setattr(Client, "_call", slow)
    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(Interrupted) as caught:
        site.up()
    assert caught.value.exit_code == 130
    for vmid in (167, 168, 169):
        assert listed.format(vmid) in caught.value.details
    assert "it waits for these tasks" in caught.value.resolution
    assert_next_run_completes(site)
    assert done(site, "vzcreate") == {"167": 1, "168": 1, "169": 1}


def test_change_by_a_task_between_two_reads_is_detected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.up(ONE)
    site.overlaid("containers: {postgres-data: {memory: 4096}}")
    call, ended = Client._call, []

    def late(self: Client, method: str, path: str, params: dict[str, Any]) -> Any:
        if path.endswith("/tasks") and not ended:
            # Simulate a task of a killed run that ended after the configuration was read, so it is no longer listed.
            ended.append(path)
            site.pve.ct(167).config["cores"] = 7
        return call(self, method, path, params)

    monkeypatch.setattr(Client, "_call", late)
    site.up(ONE)
    assert ended
    config = site.pve.ct(167).config
    assert (config["memory"], config["cores"]) == (4096, 1)
