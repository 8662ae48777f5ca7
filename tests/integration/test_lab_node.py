"""A real lab: its containers boot, survive a killed node, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from homelab.inventory.errors import Problems
from homelab.inventory.yaml_source import parse
from homelab.known_hosts import fingerprint
from homelab.lab import Lab, cgroups, down, network, status, up
from homelab.lab.lxc import Runtime
from homelab.lab.process import running
from tests.integration.lab_fixture import QUIET, fresh, in_a_lab
from tests.integration.machine_state import machine_state
from tests.integration.waiting import until

# A lab of this file's own, so that it may run in parallel with a demo and the end-to-end tests.
WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
LAB = Lab("nodetest", IPv4Network("10.99.2.32/27"), "hl-test", 18026, 8109)
NAMES = {135: "lab-a", 136: "lab-b", 137: "lab-c"}

pytestmark = in_a_lab()


@dataclass
class Api:
    """A client of the node's API with a token, over verified TLS."""

    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        proxmox = parse(LAB.overlay, LAB.overlay.read_text(), Problems()).data["proxmox"]
        secret = Path(proxmox["token_file"]).read_text().strip()
        self.session.trust_env = False
        self.session.verify = str(LAB.certificate)
        self.session.headers["Authorization"] = f"PVEAPIToken={proxmox['token_id']}={secret}"

    def ask(self, method: str, path: str, **params: Any) -> requests.Response:
        """Send a call and return the raw answer."""
        place = "data" if method in ("POST", "PUT") else "params"
        return self.session.request(method, f"{LAB.api_url}/api2/json{path}", timeout=30, **{place: params})

    def call(self, method: str, path: str, **params: Any) -> Any:
        """Send a call that has to succeed and return its data."""
        answer = self.ask(method, path, **params)
        assert answer.status_code == 200, f"{answer.status_code} {answer.reason} {answer.text}"
        return answer.json()["data"]

    def wait(self, upid: str) -> tuple[str, list[str]]:
        """Wait for a task and return its exit status and log."""
        task = f"/nodes/pve/tasks/{quote(upid, safe='')}"
        until(lambda: self.call("GET", f"{task}/status")["status"] == "stopped")
        log = [line["t"] for line in self.call("GET", f"{task}/log", limit=500)]
        return self.call("GET", f"{task}/status")["exitstatus"], log

    def do(self, method: str, path: str, **params: Any) -> list[str]:
        """Run a task that has to succeed and return its log."""
        exit_status, log = self.wait(self.call(method, path, **params))
        assert exit_status == "OK", log
        return log

    def state(self, vmid: int) -> dict[str, Any]:
        """Return status/current."""
        found: dict[str, Any] = self.call("GET", f"/nodes/pve/lxc/{vmid}/status/current")
        return found

    def create(self, vmid: int, key: Path, **more: Any) -> str:
        """Start a task that creates and starts a container, and return its UPID."""
        template = self.call("GET", "/nodes/pve/storage/local/content", content="vztmpl")[0]["volid"]
        upid: str = self.call(
            "POST",
            "/nodes/pve/lxc",
            vmid=vmid,
            hostname=NAMES[vmid],
            ostemplate=template,
            cores=1,
            memory=512,
            swap=0,
            rootfs="local:8",
            features="nesting=1",
            start=1,
            onboot=1,
            tags="homelab",
            net0=f"name=eth0,bridge={LAB.bridge},ip=10.99.2.{vmid - 100}/{LAB.subnet.prefixlen},gw={LAB.gateway}",
            **{"ssh-public-keys": key.with_suffix(".pub").read_text(), **more},
        )
        return upid


@dataclass
class Guest:
    """A container over SSH, with the host key from the create's log."""

    vmid: int
    key: Path
    pinned: str = ""

    @property
    def address(self) -> str:
        """The container's IP address."""
        return f"10.99.2.{self.vmid - 100}"

    def scan(self) -> str:
        """Return the line of its ed25519 host key; empty while it does not answer."""
        done = subprocess.run(
            ["ssh-keyscan", "-T", "2", "-t", "ed25519", self.address], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def run(self, command: str) -> str:
        """Wait for sshd, run a command that has to succeed, and return its output."""
        until(lambda: bool(self.scan()))
        known = self.key.parent / f"known-{self.vmid}"
        line = self.scan()
        assert fingerprint(line.split(" ", 1)[1]) == self.pinned
        known.write_text(line + "\n")
        options = ("StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=5", f"UserKnownHostsFile={known}")
        done = subprocess.run(
            [
                "ssh",
                "-i",
                self.key,
                *(word for option in options for word in ("-o", option)),
                f"root@{self.address}",
                command,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def shared() -> dict[str, list[str]]:
    """Return the state of this machine that all labs share, which the last lab's `down` restores.

    It is empty while another lab is up: the other tests' labs come and go during these tests.
    """
    if any(each.is_dir() and each != LAB.state_dir for each in LAB.state_dir.parent.glob("*")):
        return {}
    return {
        "pivots": sorted(map(str, Path("/sys/fs/cgroup").glob("*/lxc.pivot"))),
        "ids": Path("/etc/subuid").read_text().splitlines() + Path("/etc/subgid").read_text().splitlines(),
        "forwarding": [network.FORWARDING.read_text()],
        "watchers": [WATCHERS.read_text()],
    }


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture
def no_lab() -> Iterator[None]:
    down(LAB, QUIET)
    yield
    down(LAB, QUIET)


def test_down_restores_the_machine_even_after_a_crash(no_lab: None, key: Path) -> None:
    before, shared_before = machine_state(LAB), shared()
    up(LAB, QUIET)
    assert int(WATCHERS.read_text()) >= 8192
    api = Api()
    assert api.wait(api.create(135, key))[0] == "OK"
    until(lambda: Runtime(LAB).pid(135) is not None)
    api.create(136, key)
    during = machine_state(LAB)
    assert all(during[part] != before[part] for part in ("links", "routes", "rules", "processes", "cgroups", "state"))
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)  # in the middle of a create
    for _ in range(2):
        down(LAB, QUIET)
        assert machine_state(LAB) == before
        if shared_before and (now := shared()):
            assert now == shared_before
        assert network.guarded()


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with fresh(LAB):
        yield Api()


@pytest.fixture(scope="module")
def guests(api: Api, key: Path) -> dict[int, Guest]:
    """Three containers, created in parallel."""
    upids = {vmid: api.create(vmid, key) for vmid in NAMES}
    # During a create, Proxmox does not show the configuration.
    assert set(api.call("GET", "/nodes/pve/lxc/137/config")) == {"lock", "digest"}
    again = api.ask("POST", "/nodes/pve/lxc", vmid=137, ostemplate="local:vztmpl/x.tar.zst")
    assert (again.status_code, again.json()["message"]) == (500, "CT 137 already exists on node 'pve'\n")
    guests = {}
    for vmid, upid in upids.items():
        exit_status, log = api.wait(upid)
        assert exit_status == "OK", log
        at = log.index("Creating SSH host key 'ssh_host_ed25519_key' - this may take some time ...")
        found = re.fullmatch(rf"done: (SHA256:\S{{43}}) root@{NAMES[vmid]}", log[at + 1])
        assert found, log
        guests[vmid] = Guest(vmid, key, found[1])
    return guests


def test_second_up_changes_nothing(api: Api) -> None:
    before = running(LAB.pid_file("node")), LAB.overlay.read_bytes(), LAB.token_file.read_bytes()
    up(LAB, QUIET)
    assert (running(LAB.pid_file("node")), LAB.overlay.read_bytes(), LAB.token_file.read_bytes()) == before


def test_each_container_is_started_by_a_separate_task(api: Api, guests: dict[int, Guest]) -> None:
    def tasks(**query: str) -> list[str]:
        return [task["type"] for task in api.call("GET", "/nodes/pve/tasks", vmid=135, **query)]

    assert tasks(source="all") == ["vzstart", "vzcreate"]
    assert tasks(typefilter="vzcreate") == ["vzcreate"]


def memory_limit(vmid: int) -> int:
    """Return the kernel's memory limit of a container in MiB, for cgroup v1 or v2."""
    files = (
        Path(f"/sys/fs/cgroup/memory/homelab-nodetest-{vmid}/memory.limit_in_bytes"),
        Path(f"/sys/fs/cgroup/homelab-nodetest-{vmid}/memory.max"),
    )
    return next(int(file.read_text()) for file in files if file.exists()) // 1024 // 1024


def test_containers_boot_completely_unprivileged_and_limited(guests: dict[int, Guest]) -> None:
    for vmid, guest in guests.items():
        until(lambda guest=guest: guest.run("systemctl is-system-running || true") == "running")
        assert guest.run("hostname") == NAMES[vmid]
        assert guest.run("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
        assert guest.run("stat -c %u:%g / /etc/passwd /root/.ssh/authorized_keys").split() == ["0:0"] * 3
    runtime = Runtime(LAB)
    pid = runtime.pid(135)
    own = Path(f"/proc/{pid}/cgroup").read_text()
    assert "homelab-nodetest-135" in own
    assert memory_limit(135) == 512


def test_every_container_has_its_own_keys(guests: dict[int, Guest]) -> None:
    assert len({guest.pinned for guest in guests.values()}) == len(guests)
    assert len({guest.run("cat /etc/machine-id") for guest in guests.values()}) == len(guests)


def test_node_reports_the_real_state(api: Api, guests: dict[int, Guest]) -> None:
    state = api.state(135)
    assert state["status"] == "running"
    assert state["pid"] == Runtime(LAB).pid(135)
    assert 1_000_000 < state["mem"] < state["maxmem"] == 512 * 1024 * 1024
    assert state["disk"] > 50_000_000
    assert 0 <= state["uptime"] < 300
    shown = {link["name"]: link for link in api.call("GET", "/nodes/pve/lxc/135/interfaces")}
    assert shown["eth0"]["inet"] == "10.99.2.35/27"
    resource = next(item for item in api.call("GET", "/cluster/resources", type="vm") if item["vmid"] == 135)
    assert (resource["status"], resource["mem"] > 0) == ("running", True)
    storage = api.call("GET", "/nodes/pve/storage/local/status")
    disk = os.statvfs(LAB.state_dir)
    assert storage["total"] == disk.f_blocks * disk.f_frsize


def test_status_without_the_api_matches(guests: dict[int, Guest]) -> None:
    found = status(LAB)
    assert (found.running, found.bridge_up) == (True, True)
    assert {c.vmid: (c.name, c.state, c.ip) for c in found.containers} == {
        vmid: (name, "running", f"10.99.2.{vmid - 100}") for vmid, name in NAMES.items()
    }


def test_token_has_only_the_needed_privileges(api: Api) -> None:
    refused = api.ask("PUT", "/nodes/pve/lxc/135/config", net0="name=eth0,bridge=vmbr9")
    assert (refused.status_code, refused.json()["message"]) == (
        403,
        "Permission check failed (/sdn/zones/localnetwork/vmbr9, SDN.Use)\n",
    )
    assert api.ask("POST", "/access/users", userid="x@pve").status_code == 403
    assert api.ask(
        "POST", "/nodes/pve/lxc", vmid=138, ostemplate="local:vztmpl/x.tar.zst", unprivileged=0
    ).status_code in (403, 500)
    stranger = requests.Session()
    stranger.trust_env = False
    answer = stranger.get(
        f"{LAB.api_url}/api2/json/nodes",
        verify=str(LAB.certificate),
        timeout=10,
        headers={"Authorization": "PVEAPIToken=homelab@pve!lab=wrong"},
    )
    assert answer.status_code == 401


def test_containers_reach_each_other_and_the_replay(api: Api, guests: dict[int, Guest]) -> None:
    assert guests[135].run("exec 3<>/dev/tcp/10.99.2.36/22; head -c 7 <&3") == "SSH-2.0"
    connect = f"exec 3<>/dev/tcp/{LAB.gateway}/{LAB.replay_port}"
    assert " 200 " in guests[135].run(connect + "; printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3")


@pytest.fixture
def outside() -> Iterator[tuple[str, str]]:
    """Two hosts in a network namespace, one at a private address, one at a public one.

    No packet for them can leave this machine: they are on a veth pair.
    """

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", "hl-outside")
        ip("link", "add", "hl-out0", "type", "veth", "peer", "name", "hl-out1", "netns", "hl-outside")
        ip("addr", "add", "10.98.7.1/24", "dev", "hl-out0")
        ip("addr", "add", "138.51.100.1/24", "dev", "hl-out0")
        ip("link", "set", "hl-out0", "up")
        for address in ("10.98.7.2/24", "138.51.100.2/24"):
            ip("-n", "hl-outside", "addr", "add", address, "dev", "hl-out1")
        ip("-n", "hl-outside", "link", "set", "hl-out1", "up")
        server = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                "hl-outside",
                "/usr/bin/env",
                "-u",
                "PYTHONPATH",
                "python3",
                "-c",
                "import socket\nlistening = socket.create_server(('0.0.0.0', 7))\n"
                "while True:\n    peer, who = listening.accept(); peer.sendall(who[0].encode()); peer.close()",
            ]
        )
        try:
            yield "10.98.7.2", "138.51.100.2"
        finally:
            server.kill()
            server.wait()
    finally:
        subprocess.run(["ip", "link", "del", "hl-out0"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", "hl-outside"], check=False, capture_output=True)


def test_containers_reach_the_internet_but_no_private_networks(
    guests: dict[int, Guest], outside: tuple[str, str]
) -> None:
    private, public = outside

    def echo(address: str) -> str:
        return guests[135].run(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/7; cat <&3' 2>&1 || true")

    # Through NAT: the public host sees this machine's address, not the container's.
    until(lambda: echo(public) == "138.51.100.1")
    # This machine reaches the private host, so only our rule can stop the container.
    peer = subprocess.run(
        ["bash", "-c", f"exec 3<>/dev/tcp/{private}/7; cat <&3"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert peer == "10.98.7.1"
    assert "No route to host" in echo(private)


def test_limits_change_on_a_running_container(api: Api, guests: dict[int, Guest]) -> None:
    for wanted in (1024, 256, 512):
        api.call("PUT", "/nodes/pve/lxc/136/config", memory=wanted)
        assert memory_limit(136) == wanted
    assert not [item for item in api.call("GET", "/nodes/pve/lxc/136/pending") if "pending" in item]


def test_address_changes_on_a_running_container(api: Api, guests: dict[int, Guest]) -> None:
    net0 = api.call("GET", "/nodes/pve/lxc/136/config")["net0"]
    api.call("PUT", "/nodes/pve/lxc/136/config", net0=net0.replace("10.99.2.36", "10.99.2.39"))
    moved = Guest(139, guests[136].key, guests[136].pinned)
    assert moved.run("hostname") == "lab-b"
    api.call("PUT", "/nodes/pve/lxc/136/config", net0=net0)
    assert guests[136].run("hostname") == "lab-b"


def test_power_actions_over_the_api(api: Api, guests: dict[int, Guest]) -> None:
    power = "/nodes/pve/lxc/136/status"
    first = api.state(136)["pid"]
    api.do("POST", f"{power}/reboot", timeout=30)
    assert api.state(136)["pid"] != first
    assert guests[136].run("echo up") == "up"
    api.do("POST", f"{power}/shutdown", timeout=30)
    assert api.state(136)["status"] == "stopped"
    assert Runtime(LAB).pid(136) is None
    assert api.ask("POST", f"{power}/stop").json()["message"] == "CT 136 not running\n"
    api.do("POST", f"{power}/start")
    assert api.ask("POST", f"{power}/start").json()["message"] == "CT 136 already running\n"
    api.do("POST", f"{power}/stop")
    assert Runtime(LAB).pid(136) is None
    api.do("POST", f"{power}/start")
    assert guests[136].run("echo up") == "up"


# Delayed until the SSH connection is closed.
_SOON = "nohup sh -c 'sleep 0.3; systemctl {}' >/dev/null 2>&1 &"


def test_power_actions_from_inside(api: Api, guests: dict[int, Guest]) -> None:
    first = api.state(137)["pid"]
    guests[137].run(_SOON.format("reboot"))
    until(lambda: api.state(137).get("pid") not in (first, None))
    # The files keep their owners after a reboot from inside.
    assert guests[137].run("stat -c %u /etc/passwd") == "0"
    guests[137].run(_SOON.format("poweroff"))
    until(lambda: api.state(137)["status"] == "stopped")
    api.do("POST", "/nodes/pve/lxc/137/status/start")
    assert guests[137].run("echo up") == "up"


def test_missing_bridge_fails_only_the_start(api: Api, guests: dict[int, Guest]) -> None:
    subprocess.run(["ip", "link", "set", LAB.bridge, "name", "hl-away"], check=True)
    try:
        api.do("POST", "/nodes/pve/lxc/137/status/shutdown", timeout=30)
        exit_status, log = api.wait(api.call("POST", "/nodes/pve/lxc/137/status/start"))
    finally:
        subprocess.run(["ip", "link", "set", "hl-away", "name", LAB.bridge], check=True)
    assert exit_status == f"bridge '{LAB.bridge}' does not exist", log
    # The host's end of a network device, of a namespace that has not ended yet.
    leftover = ["ip", "link", "add", f"{LAB.bridge}137i0", "type", "veth", "peer", "name", f"{LAB.bridge}-far"]
    subprocess.run(leftover, check=True)
    api.do("POST", "/nodes/pve/lxc/137/status/start")


def test_containers_survive_a_killed_node_and_unfinished_ones_are_removed(
    api: Api, guests: dict[int, Guest], key: Path
) -> None:
    runtime = Runtime(LAB)
    inits = {vmid: runtime.pid(vmid) for vmid in NAMES}
    NAMES[138] = "half-made"
    try:
        upid = api.create(138, key)
        node = running(LAB.pid_file("node"))
        assert node is not None
        until(lambda: runtime.root(138).exists())
        os.kill(node, signal.SIGKILL)
        until(lambda: running(LAB.pid_file("node")) is None)
    finally:
        del NAMES[138]
    assert {vmid: runtime.pid(vmid) for vmid in NAMES} == inits
    up(LAB, QUIET)
    assert running(LAB.pid_file("node")) not in (node, None)
    assert {ct["vmid"]: ct["pid"] for ct in api.call("GET", "/nodes/pve/lxc")} == inits
    assert not runtime.root(138).parent.exists()
    assert api.wait(upid)[0] == "unexpected status"
    # Task logs, which contain the fingerprints, outlive the node.
    created = [task for task in api.call("GET", "/nodes/pve/tasks", vmid=135) if task["type"] == "vzcreate"]
    assert any(guests[135].pinned in line for line in api.wait(created[0]["upid"])[1])


def test_containers_start_with_the_machine(api: Api, guests: dict[int, Guest]) -> None:
    api.call("PUT", "/nodes/pve/lxc/136/config", onboot=0)
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)
    until(lambda: running(LAB.pid_file("node")) is None)
    # The state after a reboot of the machine: no container runs, and the recorded boot is another one.
    for vmid in NAMES:
        Runtime(LAB).kill(vmid)
    (LAB.records / "boot").write_text("another boot")
    up(LAB, QUIET)
    until(lambda: api.state(135)["status"] == api.state(137)["status"] == "running")
    assert api.state(136)["status"] == "stopped"
    assert guests[135].run("echo up") == "up"
    api.call("PUT", "/nodes/pve/lxc/136/config", onboot=1)


def backups(api: Api, vmid: int) -> list[dict[str, Any]]:
    """Return a container's backups, oldest first."""
    found: list[dict[str, Any]] = api.call("GET", "/nodes/pve/storage/local/content", content="backup", vmid=vmid)
    return found


def back_up(api: Api, vmid: int, **more: str) -> list[str]:
    """Make a backup and return the task's log."""
    return api.do("POST", "/nodes/pve/vzdump", vmid=vmid, storage="local", compress="zstd", **more)


@pytest.fixture
def guest(api: Api, guests: dict[int, Guest]) -> Guest:
    """The running container 136."""
    if api.state(136)["status"] != "running":
        api.do("POST", "/nodes/pve/lxc/136/status/start")
    return guests[136]


def test_restore_brings_back_the_complete_container(api: Api, guest: Guest) -> None:
    dumps = LAB.state_dir / "dump"
    guest.run("install -D -o 1234 -g 5678 -m 4750 /bin/true /srv/mark; ln -s mark /srv/link; mkfifo /srv/pipe")
    before = api.call("GET", "/nodes/pve/lxc/136/config")
    log = back_up(api, 136, mode="snapshot", **{"notes-template": "{{guestname}} of the tests"})
    # A directory storage has no snapshots, so the container is suspended instead.
    assert [line for line in log if "mode" in line] == [
        "INFO: mode failure - some volumes do not support snapshots",
        "INFO: trying 'suspend' mode instead",
        "INFO: backup mode: suspend",
    ]
    assert any(line.startswith("INFO: guest is online again after ") for line in log)
    (row,) = backups(api, 136)
    assert re.fullmatch(r"local:backup/vzdump-lxc-136-\d{4}(_\d\d){2}-\d\d(_\d\d){2}\.tar\.zst", row["volid"])
    assert (row["notes"], row["format"], row["size"] > 10_000_000) == ("lab-b of the tests", "tar.zst", True)
    assert sorted(path.suffix for path in dumps.iterdir()) == [".log", ".notes", ".zst"]
    assert not list(LAB.lxcpath.glob("vzdump-*"))

    guest.run("rm -r /srv/mark /etc/ssh/ssh_host_ed25519_key; echo late >/srv/late")
    api.do("DELETE", "/nodes/pve/lxc/136", force=1)
    log = api.do("POST", "/nodes/pve/lxc", vmid=136, ostemplate=row["volid"], restore=1, storage="local", start=1)
    assert log[0] == f"recovering backed-up configuration from '{row['volid']}'"
    until(lambda: api.state(136)["status"] == "running")
    # Over SSH, with its original host key.
    assert guest.run("stat -c '%u:%g %a' /srv/mark; readlink /srv/link; ls /srv /etc/vzdump").split() == [
        "1234:5678",
        "4750",
        "mark",
        "/etc/vzdump:",
        "/srv:",
        "link",
        "mark",
        "pipe",
    ]
    assert api.call("GET", "/nodes/pve/lxc/136/config") == before


def test_backup_files_are_removed_with_their_backups(api: Api, guest: Guest) -> None:
    for mode in ("suspend", "stop"):
        back_up(api, 136, mode=mode)
    assert api.state(136)["status"] == "running"
    *old, newest = backups(api, 136)
    log = api.do(
        "DELETE", "/nodes/pve/storage/local/prunebackups", vmid=136, type="lxc", **{"prune-backups": "keep-last=1"}
    )
    assert len([line for line in log if line.startswith("removing backup ")]) == len(old) == 2
    assert backups(api, 136) == [newest]
    assert {path.name.split(".")[0] for path in (LAB.state_dir / "dump").iterdir()} == {
        newest["volid"].rpartition("/")[2].split(".")[0]
    }
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)
    until(lambda: running(LAB.pid_file("node")) is None)
    up(LAB, QUIET)
    assert backups(api, 136) == [newest]
    api.do("DELETE", f"/nodes/pve/storage/local/content/{newest['volid']}")
    assert (backups(api, 136), list((LAB.state_dir / "dump").iterdir())) == ([], [])


def test_container_that_forks_all_the_time_freezes(guest: Guest) -> None:
    loop = "sh -c 'while [ ! -e /run/stop ]; do mv /run/none /run/other; echo 1 >>/run/count; done' >/dev/null 2>&1"
    guest.run(f"for i in 1 2; do nohup timeout 60 {loop} & done")
    count = Path(f"/proc/{Runtime(LAB).pid(136)}/root/run/count")
    until(count.exists)
    for _ in range(40):  # one freeze in about thirty hung with lxc-freeze on cgroup v1
        with Runtime(LAB).frozen(136):
            before = count.stat().st_size
            time.sleep(0.02)
            assert count.stat().st_size == before
        until(lambda before=before: count.stat().st_size > before)
    guest.run("touch /run/stop")


def test_killed_node_unfreezes_a_container_after_a_backup(api: Api, guest: Guest) -> None:
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)
    until(lambda: running(LAB.pid_file("node")) is None)
    # The state after a kill during a backup.
    cgroups.freeze(LAB.cgroup(136))
    record = LAB.records / "ct-136.json"
    left = json.loads(record.read_text())
    record.write_text(json.dumps({**left, "config": left["config"] | {"lock": "backup"}}))
    (LAB.lxcpath / "vzdump-136").mkdir()
    (LAB.state_dir / "dump").mkdir(exist_ok=True)
    (LAB.state_dir / "dump" / "vzdump-lxc-136-2026_01_01-00_00_00.dat").write_text("half")
    up(LAB, QUIET)
    assert guest.run("echo on") == "on"
    assert "lock" not in api.state(136)
    assert not list(LAB.lxcpath.glob("vzdump-*"))
    assert backups(api, 136) == []


def test_directory_storage_has_no_snapshots(api: Api, guest: Guest) -> None:
    path = "/nodes/pve/lxc/136"
    assert api.call("GET", f"{path}/feature", feature="snapshot") == {"hasFeature": 0}
    exit_status, _ = api.wait(api.call("POST", f"{path}/snapshot", snapname="a1"))
    assert exit_status == "snapshot feature is not available"
    assert [row["name"] for row in api.call("GET", f"{path}/snapshot")] == ["current"]
    exit_status, _ = api.wait(api.call("POST", f"{path}/snapshot/a1/rollback"))
    assert exit_status == "snapshot 'a1' does not exist"


def test_destroy_removes_everything(api: Api, guests: dict[int, Guest]) -> None:
    path = "/nodes/pve/lxc/135"
    refused = api.ask("DELETE", path)
    assert refused.json()["message"] == "unable to destroy CT 135 - container is running\n"
    log = api.do("DELETE", path, force=1, purge=1)
    assert log[:2] == ["forced to stop CT 135 before destroying!", "purging CT 135 from related configurations.."]
    assert not Runtime(LAB).root(135).parent.exists()
    assert not list(Path("/sys/fs/cgroup").glob("*/homelab-nodetest-135*"))
    assert api.ask("GET", f"{path}/config").status_code == 500
    assert 135 not in {ct["vmid"] for ct in api.call("GET", "/nodes/pve/lxc")}


def test_missing_template_fails_in_the_task(api: Api) -> None:
    volume = "local:vztmpl/debian-99.tar.zst"
    exit_status, _ = api.wait(api.call("POST", "/nodes/pve/lxc", vmid=138, ostemplate=volume, rootfs="local:1"))
    assert exit_status == f"unable to create CT 138 - volume '{volume}' does not exist"
    assert 138 not in {ct["vmid"] for ct in api.call("GET", "/nodes/pve/lxc")}
