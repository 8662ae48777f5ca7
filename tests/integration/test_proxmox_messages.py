"""Errors on the command line: one line each for the brief, the details and the resolution."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fakepve.server import TaskError

from homelab import cli
from homelab.cli.global_options import Settings
from homelab.proxmox import client, plan_executor
from homelab.runtime.lab_lock import lab_lock
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

MORE_MEMORY = "containers: {postgres-data: {memory: 4096}}"


def endpoint(site: Site, **changes: Any) -> None:
    """Change the endpoint of Proxmox."""
    site.inventory = replace(site.inventory, endpoint=replace(site.inventory.endpoint, **changes))


def unreachable(site: Site) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint(site, port=sock.getsockname()[1])


def no_privilege(site: Site) -> None:
    site.pve.grant_least(site.inventory, without="VM.PowerMgmt")


def during_the_create(site: Site, act: Callable[[], object]) -> None:
    """Do something during the create call."""
    check = site.pve._check_vmid_unused

    def disturbed(vmid: int) -> None:
        site.pve._check_vmid_unused = check
        act()
        check(vmid)

    site.pve._check_vmid_unused = disturbed


def failing(site: Site, step: str, details: str) -> None:
    """Let a step of the node's tasks fail."""

    async def fail(*_: Any, **__: Any) -> None:
        raise TaskError(details)

    setattr(site.pve, step, fail)


def slow(site: Site) -> None:
    site.pve.time_scale, site.pve.ct_secs["create"] = 1.0, 0.5


def late(site: Site) -> None:
    site.pve.time_scale = 1.0
    site.pve.slow_network(latency=1.0)


def expiring(site: Site) -> None:
    slow(site)
    during_the_create(site, lambda: site.pve.apitokens.update({TOKEN: "expired"}))


def interrupted(site: Site) -> None:
    slow(site)
    main = threading.main_thread().ident
    assert main is not None
    during_the_create(site, lambda: threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start())


def with_containers(site: Site, overlay: str = MORE_MEMORY) -> None:
    """Create the container, then change the inventory."""
    site.up("postgres-data")
    site.overlaid(overlay)


def locked(site: Site) -> None:
    with_containers(site)
    asyncio.run(site.pve.hold_config_lock(167, None))


def locked_by_a_create(site: Site) -> None:
    with_containers(site)
    site.pve.fail("DELETE", "/lxc/167", 500, "CT is locked (create)")


@dataclass(frozen=True)
class Case:
    """A failure and parts of its three lines; `follows` is in the additional lines of the details."""

    prepare: Callable[[Site], object]
    brief: str
    details: str
    resolution: str
    verb: str = "up"
    status: int = 1
    follows: str = ""


CASES = {
    "node unreachable": Case(unreachable, "Cannot reach Proxmox", "Connection refused", "`proxmox.host`"),
    "no answer in time": Case(late, "no answer in time", "`GET /cluster/resources`", "overloaded"),
    "another certificate": Case(
        lambda site: endpoint(site, fingerprint="AB:" * 31 + "AB"),
        "its certificate is not the pinned one",
        "the token was not sent",
        "pvenode cert",
    ),
    "no trusted CA": Case(
        lambda site: endpoint(site, fingerprint=None),
        "is not signed by a trusted CA",
        "The token was not sent",
        "Pin it",
    ),
    "401": Case(
        lambda site: site.pve.apitokens.update({TOKEN: "another"}),
        "refused the token",
        "authentication",
        "pveum user token list",
    ),
    "403": Case(
        no_privilege, "Cannot call Proxmox: the token lacks a privilege", "Permission check failed", "VM.PowerMgmt"
    ),
    "5xx that stays": Case(
        lambda site: site.pve.fail("GET", "/cluster/resources", 503, "Service Unavailable"),
        "gateway error",
        "503 Service Unavailable",
        "run the same command again",
    ),
    "connections that drop": Case(
        lambda site: site.pve.flaky_network(drop_rate=1.0), "Cannot reach Proxmox", "`GET /", "reachable from here"
    ),
    "a create whose answers are lost": Case(
        lambda site: site.pve.fail("POST", "/nodes/pve/lxc", 502, "Bad Gateway"),
        "gateway error",
        "502 Bad Gateway",
        "run the same command again",
    ),
    "a full storage": Case(
        lambda site: failing(site, "ceph_io", "Insufficient free space"),
        "Cannot create postgres-data: its task failed",
        "vzcreate 167 on node pve: unable to create CT 167 - Insufficient free space",
        "Fix the cause",
        follows="TASK ERROR: unable to create CT 167",
    ),
    "a start that fails": Case(
        lambda site: failing(site, "_start_steps", "bridge 'vmbr0' does not exist"),
        "Cannot start postgres-data: its task failed",
        "vzstart 167 on node pve: bridge 'vmbr0'",
        "Fix the cause",
        follows="TASK ERROR: bridge 'vmbr0' does not exist",
    ),
    "a task past its deadline": Case(slow, "no end after 0 s", "UPID:pve:", "waits for the running task"),
    "can't lock file": Case(locked, "Cannot change the container: it is locked", "can't lock file", "pct unlock 167"),
    "CT is locked (create)": Case(
        locked_by_a_create,
        "Cannot change the container: it is locked",
        "CT is locked (create)",
        "pct unlock 167",
        verb="destroy",
    ),
    "half made": Case(
        lambda site: site.pve.add_ct(167, node="pve", config={"lock": "create"}, defaults=False),
        "Cannot use 167: its creation was interrupted",
        "without removing its lock",
        "pct unlock 167",
    ),
    "a vmid that is taken": Case(
        lambda site: site.pve.add_ct(167, "paperless", node="pve"), "not ours", "`paperless`", "another vmid"
    ),
    "a vmid that is taken meanwhile": Case(
        lambda site: during_the_create(site, lambda: site.pve.add_ct(167, "paperless", node="pve")),
        "Cannot create postgres-data: vmid 167 was taken after the plan was made",
        "`paperless` on node pve",
        "Run the same command again",
    ),
    "no quorum": Case(lambda site: site.pve.lose_quorum(), "no quorum", "cluster not ready", "pvecm status"),
    "a token that expires in mid-run": Case(expiring, "refused the token", "authentication", "pveum user token list"),
    "Ctrl-C": Case(
        interrupted,
        "Interrupted",
        "These tasks continue on the node:",
        "Run the same command again",
        status=130,
        follows="vzcreate of 167 on pve: UPID:pve:",
    ),
    "a disk that would shrink": Case(
        lambda site: with_containers(site, "containers: {postgres-data: {disk: 8}}"),
        "Cannot shrink the disk of postgres-data",
        "has 16 GiB",
        "disk: 16",
    ),
}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the process-wide settings of `cli.main`, and shorten waits."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr("homelab.proxmox.tasks._CHECK_AFTER", (0.01, 0.01))
    monkeypatch.setattr("homelab.runtime.provisioning.await_ssh", lambda *_: None)
    yield
    signal.signal(signal.SIGINT, handler)


def run_failing(
    site: Site, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Run `homelab VERB --yes --limit postgres-data`; return the exit status and the lines of the error."""
    monkeypatch.setattr(Settings, "load", lambda self: site.inventory)
    monkeypatch.setattr(sys, "argv", ["homelab", "--quiet", verb, "--yes", "--limit", "postgres-data"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    _, mark, error = capsys.readouterr().err.partition("Error: ")
    assert mark
    assert SECRET not in error
    return int(str(ended.value.code)), error.splitlines()


@pytest.mark.parametrize("name", CASES)
def test_three_lines(
    site: Site, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.prepare(site)
    if name == "no answer in time":
        monkeypatch.setattr(client, "_TIMEOUT", (5, 0.1))
    if name == "a task past its deadline":
        monkeypatch.setattr(plan_executor, "_CREATE", 0.1)
    status, (brief, details, *more, resolution) = run_failing(site, case.verb, monkeypatch, capsys)
    assert case.brief in brief
    assert case.details in details
    assert case.resolution in resolution
    assert all(line.startswith("  ") for line in more), more
    assert bool(more) == bool(case.follows)
    assert case.follows in "\n".join(more)
    assert status == case.status


def test_second_command_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("up", "destroy"):
        with lab_lock(site.inventory.state_dir, "up"):
            status, (brief, details, resolution) = run_failing(site, verb, monkeypatch, capsys)
        assert (status, brief) == (1, "Cannot lock the lab: another command is changing it")
        assert re.match(r"Process \d+ \(homelab up\), started at ", details)
        assert "run the same command again" in resolution
    assert site.pve.requests == []
