"""What goes wrong, as the command line says it: one line what happened, one why, one what to do."""

from __future__ import annotations

import asyncio
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
from homelab.cli.common import Settings
from homelab.proxmox import client, plan_executor
from homelab.runtime.lab_lock import lab_lock
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

MORE_MEMORY = "containers: {postgres-data: {memory: 4096}}"


def endpoint(site: Site, **changes: Any) -> None:
    """Change where Proxmox answers or how it is trusted."""
    site.inventory = replace(site.inventory, endpoint=replace(site.inventory.endpoint, **changes))


def unreachable(site: Site) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint(site, port=sock.getsockname()[1])


def no_privilege(site: Site) -> None:
    site.pve.grant_least(site.inventory, without="VM.PowerMgmt")


def during_the_create(site: Site, act: Callable[[], object]) -> None:
    """Do something while the create is being asked for."""
    check = site.pve._check_vmid_unused

    def disturbed(vmid: int) -> None:
        site.pve._check_vmid_unused = check
        act()
        check(vmid)

    site.pve._check_vmid_unused = disturbed


def failing(site: Site, step: str, why: str) -> None:
    """Let a step of the node's tasks fail."""

    async def fail(*_: Any, **__: Any) -> None:
        raise TaskError(why)

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


def there(site: Site, overlay: str = MORE_MEMORY) -> None:
    """The containers are there, and the inventory wants something else of them now."""
    site.up("postgres-data")
    site.overlaid(overlay)


def locked(site: Site) -> None:
    there(site)
    asyncio.run(site.pve.hold_config_lock(167, None))


def locked_by_a_create(site: Site) -> None:
    there(site)
    site.pve.fail("DELETE", "/lxc/167", 500, "CT is locked (create)")


@dataclass(frozen=True)
class Case:
    """What goes wrong, and words that the three lines have; `follows` is in the lines that follow the reason."""

    prepare: Callable[[Site], object]
    what: str
    why: str
    todo: str
    verb: str = "up"
    status: int = 1
    follows: str = ""


CASES = {
    "node unreachable": Case(unreachable, "cannot be reached", "Connection refused", "`proxmox.host`"),
    "no answer in time": Case(late, "takes too long to answer", "`GET /cluster/resources`", "overloaded"),
    "another certificate": Case(
        lambda site: endpoint(site, fingerprint="AB:" * 31 + "AB"),
        "does not show the pinned certificate",
        "the token has not been sent",
        "pvenode cert",
    ),
    "no trusted CA": Case(
        lambda site: endpoint(site, fingerprint=None), "is not trusted", "The token has not been", "Pin it"
    ),
    "401": Case(
        lambda site: site.pve.apitokens.update({TOKEN: "another"}),
        "refused the token",
        "authentication",
        "pveum user token list",
    ),
    "403": Case(no_privilege, "does not allow that to this token", "Permission check failed", "VM.PowerMgmt"),
    "5xx that stays": Case(
        lambda site: site.pve.fail("GET", "/cluster/resources", 503, "Service Unavailable"),
        "cannot answer right now",
        "503 Service Unavailable",
        "run the same command again",
    ),
    "connections that drop": Case(
        lambda site: site.pve.flaky_network(drop_rate=1.0), "cannot be reached", "`GET /", "reachable from here"
    ),
    "a create whose answers are lost": Case(
        lambda site: site.pve.fail("POST", "/nodes/pve/lxc", 502, "Bad Gateway"),
        "cannot answer right now",
        "502 Bad Gateway",
        "run the same command again",
    ),
    "a full storage": Case(
        lambda site: failing(site, "ceph_io", "Insufficient free space"),
        "creating it failed",
        "vzcreate 167 on node pve: unable to create CT 167 - Insufficient free space",
        "Mend the cause",
        follows="TASK ERROR: unable to create CT 167",
    ),
    "a start that fails": Case(
        lambda site: failing(site, "_start_steps", "bridge 'vmbr0' does not exist"),
        "starting it failed",
        "vzstart 167 on node pve: bridge 'vmbr0'",
        "Mend the cause",
        follows="TASK ERROR: bridge 'vmbr0' does not exist",
    ),
    "a task past its deadline": Case(slow, "has not ended after 0 s", "UPID:pve:", "waits for what still runs"),
    "can't lock file": Case(locked, "The container is locked", "can't lock file", "pct unlock 167"),
    "CT is locked (create)": Case(
        locked_by_a_create, "The container is locked", "CT is locked (create)", "pct unlock 167", verb="destroy"
    ),
    "half made": Case(
        lambda site: site.pve.add_ct(167, node="pve", config={"lock": "create"}, defaults=False),
        "167 is half made",
        "left its lock behind",
        "pct unlock 167",
    ),
    "a vmid that is taken": Case(
        lambda site: site.pve.add_ct(167, "paperless", node="pve"), "not ours", "`paperless`", "another vmid"
    ),
    "a vmid that is taken meanwhile": Case(
        lambda site: during_the_create(site, lambda: site.pve.add_ct(167, "paperless", node="pve")),
        "vmid 167 was taken after the plan was made",
        "`paperless` on node pve",
        "Run the same command again",
    ),
    "no quorum": Case(lambda site: site.pve.lose_quorum(), "no quorum", "cluster not ready", "pvecm status"),
    "a token that expires in mid-run": Case(expiring, "refused the token", "authentication", "pveum user token list"),
    "Ctrl-C": Case(
        interrupted,
        "Interrupted",
        "These tasks go on",
        "Run the same command again",
        status=130,
        follows="vzcreate of 167 on pve: UPID:pve:",
    ),
    "a disk that would shrink": Case(
        lambda site: there(site, "containers: {postgres-data: {disk: 8}}"),
        "its disk cannot shrink",
        "has 16 GiB",
        "disk: 16",
    ),
}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `cli.main` sets for its whole process; and no long waits."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(client, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr("homelab.proxmox.tasks._LOOKS", (0.01, 0.01))
    monkeypatch.setattr("homelab.commands.up._wait_for_ssh", lambda *_: None)
    yield
    signal.signal(signal.SIGINT, handler)


def says(
    site: Site, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """The exit status of `homelab VERB --yes --limit postgres-data`, and the lines of its error."""
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
    status, (what, why, *more, todo) = says(site, case.verb, monkeypatch, capsys)
    assert case.what in what
    assert case.why in why
    assert case.todo in todo
    assert all(line.startswith("  ") for line in more), more
    assert bool(more) == bool(case.follows)
    assert case.follows in "\n".join(more)
    assert status == case.status


def test_two_at_once(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("up", "destroy"):
        with lab_lock(site.inventory.state_dir, "up"):
            status, (what, why, todo) = says(site, verb, monkeypatch, capsys)
        assert (status, what) == (1, "Another command is changing this lab")
        assert "`homelab up`, process " in why
        assert "run the same command again" in todo
    assert site.pve.requests == []
