"""Trust, errors and tasks of the client, over real TLS, with recorded answers and an in-process node."""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.init import init
from homelab.commands.trust_host import trust_host
from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts
from homelab.model import ProxmoxApi
from homelab.proxmox import Client, client, find_guests, tasks
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.plan_executor import only_node
from homelab.proxmox.tls import fetch_fingerprint
from tests.integration.fakenode import TOKEN, FakeNode, certificate, serving
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.recorded import RECORDED, data, replaying
from tests.support import make_session

Pair = tuple[tuple[str, str], str]


@pytest.fixture
def endpoint(tmp_path: Path, pair: Pair) -> ProxmoxApi:
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    return ProxmoxApi(
        host="127.0.0.1", port=0, node=None, token_id=TOKEN, token_file=token, fingerprint=pair[1], ca_file=None
    )


# ------------------------------------------------------------------ trust


def test_token_is_sent_only_to_the_pinned_certificate(endpoint: ProxmoxApi, pair: Pair, tmp_path: Path) -> None:
    other, other_fingerprint = certificate(tmp_path, "other")
    with replaying(["resources"], other) as (port, seen):
        with pytest.raises(HomelabError, match="its certificate is not the pinned one") as caught:
            Client(replace(endpoint, port=port)).get("cluster/resources")
        assert seen == []
        assert other_fingerprint in caught.value.details
        assert pair[1] in caught.value.details
    with replaying(["resources"], pair[0]) as (port, seen):
        assert Client(replace(endpoint, port=port)).get("cluster/resources") == data("resources")
        assert seen == [f"PVEAPIToken={TOKEN}={SECRET}"]


def test_ca_file_is_trusted_and_system_cas_are_not_sufficient(endpoint: ProxmoxApi, pair: Pair) -> None:
    with replaying(["resources"], pair[0]) as (port, seen):
        with pytest.raises(HomelabError, match="its certificate is not signed by a trusted CA") as caught:
            Client(replace(endpoint, port=port, fingerprint=None)).get("version")
        assert (seen, "self-signed certificate" in caught.value.details) == ([], True)
        Client(replace(endpoint, port=port, fingerprint=None, ca_file=Path(pair[0][0]))).get("cluster/resources")
        assert len(seen) == 1


def test_certificate_for_another_name_is_refused(endpoint: ProxmoxApi, pair: Pair) -> None:
    with replaying(["resources"], pair[0], host="127.0.0.2") as (port, seen):
        server = replace(endpoint, host="127.0.0.2", port=port, fingerprint=None, ca_file=Path(pair[0][0]))
        with pytest.raises(HomelabError, match="its certificate is not signed by a trusted CA"):
            Client(server).get("version")
        assert seen == []


def test_environment_cannot_weaken_trust(
    endpoint: ProxmoxApi, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = certificate(tmp_path, "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other[0])
    monkeypatch.setenv("CURL_CA_BUNDLE", other[0])
    monkeypatch.setenv("SSL_CERT_FILE", other[0])
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with replaying(["resources"], other) as (port, seen):
        for server in (replace(endpoint, port=port), replace(endpoint, port=port, fingerprint=None)):
            with pytest.raises(HomelabError, match="certificate"):
                Client(server).get("version")
        assert seen == []


def test_fetch_fingerprint(pair: Pair) -> None:
    with replaying([], pair[0]) as (port, seen):
        assert fetch_fingerprint("127.0.0.1", port) == pair[1]
        assert seen == []
    with pytest.raises(HomelabError, match="no TLS answer"):
        fetch_fingerprint("127.0.0.1", port)


# ------------------------------------------------------------------ token


def test_token_comes_from_a_private_file_or_the_environment(
    endpoint: ProxmoxApi, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.token_file.chmod(0o644)
    with pytest.raises(HomelabError, match="other users can read it") as caught:
        Client(endpoint)
    assert caught.value.resolution == f"chmod 600 {endpoint.token_file}"
    endpoint.token_file.unlink()
    with pytest.raises(HomelabError, match="Cannot read the secret of the Proxmox token"):
        Client(endpoint)
    monkeypatch.setenv("HOMELAB_PROXMOX_TOKEN", "from-env")
    with replaying(["resources"], pair[0]) as (port, seen):
        Client(replace(endpoint, port=port)).get("version")
        assert seen == [f"PVEAPIToken={TOKEN}=from-env"]


@pytest.mark.parametrize("value", ["two\nlines-of-it", "a b", "\u201cquoted\u201d", "│ value │ 1234 │"])
def test_malformed_token_in_the_environment_is_not_quoted(
    endpoint: ProxmoxApi, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMELAB_PROXMOX_TOKEN", value)
    with pytest.raises(InputError, match="it is not one word") as caught:
        Client(endpoint)
    shown = f"{caught.value.brief} {caught.value.details} {caught.value.resolution}"
    assert "$HOMELAB_PROXMOX_TOKEN" in shown
    assert not any(word in shown for word in value.split() if len(word) > 1)


# ----------------------------------------------------- errors, as recorded


@pytest.mark.parametrize(
    ("name", "brief", "parts"),
    [
        (
            "unauthorized",
            "Cannot log in to Proxmox: it refused the token homelab@pve!cli",
            ["Authentication failed!", "token list homelab@pve"],
        ),
        (
            "forbidden",
            "Cannot call Proxmox: the token lacks a privilege",
            ["VM.Audit on /vms/167", "pveum role modify HomelabContainers --append 1 --privs VM.Audit"],
        ),
        (
            "bad_parameters",
            "Cannot call Proxmox: it refused the call",
            ["400 Parameter verification failed.", "cores: type check ('integer') failed - got 'x'"],
        ),
        ("locked", "Cannot change the container: it is locked", ["CT is locked (backup)", "pct unlock 167"]),
        ("lock_timeout", "Cannot change the container: it is locked", ["can't lock file", "pct unlock 167"]),
        (
            "missing",
            "Cannot call Proxmox: it refused the call",
            ["500 Configuration file 'nodes/pve/lxc/99999.conf' does not exist"],
        ),
        ("exists", "Cannot call Proxmox: it refused the call", ["500 CT 167 already exists on node 'pve'"]),
    ],
)
def test_errors_contain_proxmoxs_text_and_a_resolution(
    endpoint: ProxmoxApi, pair: Pair, name: str, brief: str, parts: list[str]
) -> None:
    with replaying([name], pair[0]) as (port, _), pytest.raises(ProxmoxError, match=r"Proxmox|locked") as caught:
        Client(replace(endpoint, port=port)).put("nodes/pve/lxc/167/config", memory=1)
    assert brief in caught.value.brief
    assert caught.value.status == RECORDED[name]["status"]
    for part in parts:
        assert part in str(caught.value)
    assert SECRET not in str(caught.value)


def test_connection_refused(endpoint: ProxmoxApi) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(HomelabError, match="Cannot reach Proxmox") as caught:
            Client(replace(endpoint, port=sock.getsockname()[1])).get("version")
    assert "Connection refused" in caught.value.details


@pytest.mark.parametrize(("connects", "brief"), [(False, "the connection failed"), (True, "no answer in time")])
def test_silent_node_times_out(
    connects: bool, brief: str, endpoint: ProxmoxApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_TIMEOUT", (0.2, 0.2))
    monkeypatch.setattr(client, "_PATIENCE", 0.0)
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        if not connects:  # with a full queue, new connections time out, as with an address that drops all packets
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        started = time.monotonic()
        with pytest.raises(HomelabError, match=brief):
            Client(replace(endpoint, port=listener.getsockname()[1])).get("version")
    assert time.monotonic() - started < 4


def test_answer_that_is_not_json_is_refused(endpoint: ProxmoxApi, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDED, "html", {"status": 200, "reason": "OK", "body": "<html>a proxy's page</html>"})
    with (
        replaying(["html"], pair[0]) as (port, _),
        pytest.raises(HomelabError, match=r"Cannot use the answer of Proxmox at .+: it is not JSON"),
    ):
        Client(replace(endpoint, port=port)).get("version")


# ------------------------------------------------------- tasks, as recorded


def test_wait_for_a_recorded_create_and_read_its_log(endpoint: ProxmoxApi, pair: Pair) -> None:
    task = tasks.Task.of(data("task_ended")["upid"])
    assert (task.node, task.kind, task.vmid, task.started) == ("pve", "vzcreate", "167", 1795404187)
    # The task is not among the newest ones of the node, so its own status is read.
    answers = ["tasks_all", "task_running", "tasks_all", "task_ended", "create_log"]
    with replaying(answers, pair[0]) as (port, _):
        client = Client(replace(endpoint, port=port))
        assert tasks.wait(client, task, "creating", 5) == []
        assert tasks.log(client, task)[-1] == "TASK OK"


def test_recorded_task_lists(endpoint: ProxmoxApi, pair: Pair) -> None:
    with replaying(["tasks_active", "tasks_all"], pair[0]) as (port, _):
        client = Client(replace(endpoint, port=port))
        (running,) = tasks.of_container(client, "pve", 168, finished=False)
        assert (running.kind, running.running, running.creator) == ("vzcreate", True, "root@pam")
        (stopped,) = tasks.of_container(client, "pve", 167)
        assert (stopped.kind, stopped.running, stopped.creator) == ("vzstop", False, "deploy@pve!ci")


def test_end_of_a_task_is_read_from_the_recorded_list(endpoint: ProxmoxApi, pair: Pair) -> None:
    (stopped,) = (row for row in data("tasks_all") if row["type"] == "vzstop")
    task = tasks.Task.of(stopped["upid"])
    with replaying(["tasks_all"], pair[0]) as (port, _):
        client = Client(replace(endpoint, port=port))
        assert tasks.wait(client, task, "stopping", 5) == []
        (listed,) = (each for each in tasks.newest(client, "pve", 0.0) if each.upid == task.upid)
    assert (listed.running, listed.result, listed.end) == (False, "OK", stopped["endtime"])


def test_long_log_is_read_completely(site: Site) -> None:
    site.up("postgres-data")
    record = site.pve.tasklog[0]
    record["log"] = [f"line {n}" for n in range(1001)]
    assert tasks.log(Client(site.inventory.endpoint), tasks.Task.of(record["upid"])) == record["log"]


def test_wait_times_out(endpoint: ProxmoxApi, pair: Pair) -> None:
    task = tasks.Task.of(data("task_running")["upid"])
    with (
        replaying(["tasks_all", "task_running"] * 9, pair[0]) as (port, _),
        pytest.raises(HomelabError, match="Cannot finish vzcreate of 167: no end after 0 s"),
    ):
        tasks.wait(Client(replace(endpoint, port=port)), task, "creating", 0.2)


# ------------------------------------------------------ on the in-process node


def test_fake_node_answers_like_the_recorded_one(site: Site) -> None:
    """Compare the fields that we read, their types and the errors with recorded answers of a real node."""
    site.up()
    client = Client(site.inventory.endpoint)
    rows = {"resources": client.get("cluster/resources", type="vm")[0], "lxc": client.get("nodes/pve/lxc")[0]}
    for name, row in rows.items():
        for key in {"vmid", "node", "type", "status", "tags", "mem", "maxmem", "uptime", "disk"} & set(data(name)[0]):
            assert type(row[key]) is type(data(name)[0][key]), (name, key)
    config, recorded = client.get("nodes/pve/lxc/167/config"), data("config")
    for key in ("description", "net0", "rootfs", "features", "hostname", "tags", "unprivileged", "cores", "onboot"):
        assert type(config[key]) is type(recorded[key]), key
    pending = client.get("nodes/pve/lxc/167/pending")
    assert {"digest", "net0", "rootfs"} <= {row["key"] for row in pending} & {row["key"] for row in data("pending")}
    assert set(pending[0]) == set(data("pending")[0])
    site.pve.ct(168).lock = "backup"
    for name, path in (("missing", "nodes/pve/lxc/99999/config"), ("locked", "nodes/pve/lxc/168/config")):
        with pytest.raises(ProxmoxError) as caught:
            client.put(path, memory=700)
        assert (caught.value.status, RECORDED[name]["reason"] in caught.value.details) == (500, True)


def test_failed_create_shows_the_end_of_its_log(site: Site) -> None:
    site.pve.add_ceph_storage("ceph")
    site.pve.ceph["down"] = True
    site.overlaid("defaults: {storage: ceph}")
    with pytest.raises(HomelabError, match="Cannot complete the work on 3 of 3 containers") as caught:
        site.up()
    assert "rbd error" in caught.value.details
    assert "TASK ERROR: unable to create CT 167" in caught.value.details


def test_failed_start_after_a_successful_create_is_reported(site: Site) -> None:
    begin = site.pve._start_steps

    async def broken(ct: Any, user: str, skiplock: bool = False) -> None:
        ct.start_error = "bridge 'vmbr0' does not exist" if ct.vmid == 168 else None
        await begin(ct, user, skiplock)

    site.pve._start_steps = broken  # type: ignore[method-assign]
    with pytest.raises(HomelabError, match="Cannot start analytics-platform: its task failed") as caught:
        site.up()
    assert "bridge 'vmbr0' does not exist" in caught.value.details
    assert sorted(site.waited) == ["airflow-orchestration", "postgres-data"]
    assert site.pve.ct(168) is not None
    site.pve._start_steps = begin  # type: ignore[method-assign]
    site.pve.ct(168).start_error = None
    assert site.up().done == {"analytics-platform": ["start analytics-platform"]}


def test_create_log_without_keys_is_refused(site: Site) -> None:
    site.pve.prints_keys = False
    with pytest.raises(HomelabError, match="its SSH host key is unknown") as caught:
        site.up("postgres-data")
    assert "homelab trust host postgres-data FINGERPRINT" in caught.value.resolution
    assert site.waited == []


def test_several_nodes_need_a_node_in_the_inventory(site: Site) -> None:
    site.pve.add_node("pve2")
    with pytest.raises(HomelabError, match="Cannot choose a node") as caught:
        only_node(Client(site.inventory.endpoint))
    assert "pve, pve2" in caught.value.details
    assert len(site.overlaid("proxmox: {node: pve2}").up().done) == 3
    assert {ct.node for ct in site.pve.cts} == {"pve2"}
    assert not site.up()


def test_reads_are_repeated_after_a_dropped_connection_and_changes_are_not(site: Site) -> None:
    site.up()
    site.pve.flaky_network(drop_rate=0.2, seed=4)
    site.pve._random.seed(4)
    assert len(find_guests(Client(site.inventory.endpoint), site.inventory)) == 3
    site.pve.flaky_network(drop_rate=1.0)
    site.pve.requests.clear()
    with pytest.raises(HomelabError, match="Cannot reach Proxmox"):
        Client(site.inventory.endpoint).post("nodes/pve/lxc/167/status/stop")
    assert site.pve.ct(167).status == "running"


def test_init_then_up(tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    secret, printed = secrets.token_hex(16), []
    pve = FakeNode(secret)
    with serving(pve, pair[0]):
        folder = tmp_path / "new"
        folder.mkdir()
        answers = iter([secret, ""])
        inventory = init(
            folder / "inventory.yaml",
            host="127.0.0.1",
            port=pve.port,
            confirm=lambda _: True,
            ask=lambda _: next(answers),
            output=printed.append,
        )
        assert inventory.endpoint.fingerprint == pair[1]
        assert inventory.endpoint.token_file.stat().st_mode & 0o777 == 0o600
        assert not inventory.weather.api_key_file.exists()
        text = "\n".join(printed)
        assert pair[1] in text
        assert secret not in text
        assert "pveum user token add homelab@pve cli --privsep 1" in text
        assert "pveum pool add homelab" in text
        site = Site(pve, inventory, folder, pair[1], KnownHosts(folder / "pins"))
        with pytest.raises(HomelabError) as caught:
            site.up("postgres-data")
        assert "`pveum pool add homelab`" in caught.value.resolution
        pve.pools = {"homelab": set()}
        assert len(site.up().done) == 3
        assert pve.pools == {"homelab": {167, 168, 169}}
    with pytest.raises(InputError, match="already exists"):
        init(folder / "inventory.yaml", host="127.0.0.1", confirm=lambda _: True, ask=str, output=printed.append)


def test_init_writes_nothing_if_the_fingerprint_is_not_confirmed(tmp_path: Path, pair: Pair) -> None:
    with replaying([], pair[0]) as (port, _), pytest.raises(HomelabError, match="not confirmed"):
        init(tmp_path / "inventory.yaml", host="127.0.0.1", port=port, confirm=lambda _: False, ask=str, output=str)
    assert list(tmp_path.iterdir()) == []


def test_trust_by_hand_and_from_the_log(site: Site) -> None:
    site.up("postgres-data")
    mine, session = "SHA256:" + "A" * 43, make_session(site.inventory, site.known_hosts)
    assert trust_host(session, "postgres-data", mine).fingerprint == mine
    assert site.known_hosts.pins()["postgres-data"].fingerprint == mine
    assert trust_host(session, "postgres-data").fingerprint == site.pve.keys[167]
    with pytest.raises(InputError, match="Cannot read the host key's fingerprint"):
        trust_host(session, "postgres-data", "MD5:aa")
    with pytest.raises(HomelabError, match="does not exist"):
        trust_host(session, "analytics-platform")
