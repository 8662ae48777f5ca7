"""SSH against a real sshd on loopback: pins, commands, batches, loss of the connection."""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import pytest

from homelab.dev.local_postgres import free_port
from homelab.errors import HomelabError
from homelab.host import ConnectionLost, LoginRefused
from homelab.inventory import load
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.render import render
from homelab.secrets import FileSecretStore
from homelab.ssh import HostKeyMismatch, Keepalive, Ssh, shown_key
from homelab.steps import File, SshdSettings, remote_paths
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration.flaky_proxy import FlakyProxy
from tests.integration.waiting import until_started
from tests.support import LocalHost, make_session
from tests.unit.test_services import inventory, steps

UNPACKED = Path(__file__).parents[2] / ".venv" / "sshd"  # by ./bootstrap --test, if sshd is not installed
SSHD = shutil.which("sshd", path=f"/usr/sbin:{UNPACKED}/usr/sbin")
LIBRARIES = ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))


def missing_prerequisite() -> str:
    """Return the prerequisite that this machine lacks for these tests, or ""."""
    if SSHD is None:
        return "sshd is missing: ./bootstrap --test unpacks it on Debian and Ubuntu"
    if os.getuid() != 0:
        return "only root can run sshd for another user"
    return ""


pytestmark = pytest.mark.skipif(bool(missing_prerequisite()), reason=missing_prerequisite() or "nothing")


@dataclass
class Server:
    port: int
    fingerprint: str
    secret_store: FileSecretStore
    known_hosts: KnownHosts
    process: subprocess.Popen[bytes]

    def client(self, port: int = 0, keepalive: Keepalive | None = None) -> Ssh:
        key, _ = self.secret_store.key_pair("operator")
        return Ssh(
            "box", "127.0.0.1", key, self.known_hosts, port=port or self.port, keepalive=keepalive or Keepalive()
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path) as found:
        yield found


@contextmanager
def running_server(tmp_path: Path, settings: str = "", bashrc: str = "") -> Iterator[Server]:
    """Run sshd with further settings; with `bashrc`, root has a home of its own with that file."""
    secret_store = FileSecretStore(tmp_path / "secrets")
    _, host_public = secret_store.key_pair("host")
    _, public = secret_store.key_pair("operator")
    keys = tmp_path / "authorized_keys"
    keys.write_text(public + "\n")
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {secret_store.key_path('host')}\nAuthorizedKeysFile {keys}\n"
        f"PidFile none\nStrictModes no\nPermitRootLogin prohibit-password\nUsePAM no\n{settings}"
    )
    command = [*with_users(tmp_path, bashrc), str(SSHD), "-D", "-e", "-f", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": LIBRARIES})
    try:
        until_started(process, lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        digest = hashlib.sha256(base64.b64decode(host_public.split()[1])).digest()
        fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
        yield Server(port, fingerprint, secret_store, KnownHosts(tmp_path / "pins.json"), process)
    finally:
        process.terminate()
        process.wait(10)


def with_users(folder: Path, bashrc: str) -> list[str]:
    """Return the words before a command that give it a user `sshd`, and root a home, without changing this machine."""
    text = Path("/etc/passwd").read_text()
    if "sshd" not in {user.pw_name for user in pwd.getpwall()}:
        text += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    if bashrc:
        (folder / "home").mkdir()
        (folder / "home" / ".bashrc").write_text(bashrc)
        text = re.sub(r"(?m)^root:.*", f"root:x:0:0:root:{folder}/home:/bin/bash", text)
    if text == Path("/etc/passwd").read_text():
        return []
    passwd = folder / "passwd"
    passwd.write_text(text)
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(passwd)]


def test_unknown_key_is_refused(server: Server) -> None:
    with pytest.raises(HostKeyMismatch, match="not known"):
        server.client().connect()
    assert server.known_hosts.pins() == {}


def test_changed_key_is_refused(server: Server) -> None:
    server.known_hosts.pin("box", Pin("SHA256:AAAA"))
    with pytest.raises(HostKeyMismatch, match="has changed") as caught:
        server.client().connect()
    assert "`homelab trust host box`" in caught.value.resolution
    assert server.known_hosts.pins()["box"] == Pin("SHA256:AAAA")


def test_host_key_is_read_without_a_login(server: Server) -> None:
    line = shown_key("127.0.0.1", server.port)
    assert line is not None
    assert fingerprint(line) == server.fingerprint
    assert shown_key("127.0.0.1", free_port()) is None


def test_pinned_key_is_completed_and_commands_run(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        result = host.run("cat; echo oops >&2; exit 7", stdin=b"in\x00put")
        assert (result.status, result.stdout, result.stderr) == (7, b"in\x00put", b"oops\n")
        assert host.run("head -c 5000000 /dev/zero").stdout == bytes(5_000_000)
        assert len(host.run("wc -c", stdin=bytes(5_000_000)).text) == 7
    key = server.known_hosts.pins()["box"].key
    assert key is not None
    assert key.startswith("ssh-ed25519 AAAA")


def test_batch_separates_its_results(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        one, two, three, four = host.batch(["printf 'no newline'", "exit 3", "cat", "echo 'a\n\nb'; echo err >&2"])
    assert (one.stdout, one.status) == (b"no newline", 0)
    assert (two.stdout, two.status) == (b"", 3)
    assert three.stdout == b"", "a probe must not read the script"
    assert four.stdout == b"a\n\nb\n"


def test_lost_connection_is_an_error_and_the_next_command_reconnects(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        parent = int(host.run("echo $PPID").text)
        with pytest.raises(HomelabError, match="connection was lost"):
            host.run(f"kill -{signal.SIGKILL.value} {parent}; sleep 5")
        assert host.run("echo back").text == "back"


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_broken_or_silent_connection_is_detected_and_replaced(server: Server, how: str) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with FlakyProxy(server.port) as line, server.client(line.port, Keepalive(0.2, 0.4)) as host:
        threading.Timer(0.7, getattr(line, how)).start()
        started = time.monotonic()
        with pytest.raises(ConnectionLost):
            host.run("sleep 20")
        assert time.monotonic() - started < 15, "the command's end is not awaited"
        line.mend()
        host.reconnect(5)
        assert host.run("echo back").text == "back"


def test_incomplete_output_is_an_error(server: Server) -> None:
    """sshd reports the status as soon as the shell has ended; the output of its children comes later."""
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with FlakyProxy(server.port) as line, server.client(line.port) as host:
        host.connect()
        threading.Timer(0.5, line.cut).start()
        with pytest.raises(ConnectionLost):
            host.run("echo first; (sleep 3; echo second) & exit 0")


def test_idle_connection_is_kept(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client(keepalive=Keepalive(0.1, 0.3)) as host:
        assert host.run("sleep 1; echo $PPID").text == host.run("echo $PPID").text


def test_pin_is_checked_again_after_a_lost_connection(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        host.connect()
        server.known_hosts.pin("box", Pin("SHA256:AAAA"))
        with pytest.raises(HostKeyMismatch, match="has changed"):
            host.reconnect(5)


def test_killed_shell_is_a_failed_command(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        assert not host.run("kill -9 $$").ok
        assert host.run("echo still here").text == "still here"


def test_command_that_does_not_end_is_an_error(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host, pytest.raises(HomelabError, match="did not end within 1 s"):
        host.run("sleep 20", timeout=1)


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_endless_output_is_an_error(server: Server, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homelab.ssh._OUTPUT_MAX", 1 << 20)
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with server.client() as host:
        with pytest.raises(HomelabError, match="its output is larger than 1 MiB"):
            host.run(f"yes{stream}", timeout=60)
        assert host.run("echo on").text == "on"


def test_missing_answer_is_an_error(server: Server) -> None:
    key, _ = server.secret_store.key_pair("operator")
    with pytest.raises(HomelabError, match="no answer over SSH"):
        Ssh("box", "127.0.0.1", key, server.known_hosts, port=free_port()).connect(deadline=0.5)


def test_refused_login_is_an_error(server: Server) -> None:
    server.known_hosts.pin("box", Pin(server.fingerprint))
    stranger, _ = server.secret_store.key_pair("stranger")
    with pytest.raises(HomelabError, match="was refused"):
        Ssh("box", "127.0.0.1", stranger, server.known_hosts, port=server.port).connect(deadline=5)


def test_refused_key_names_its_file_and_the_line_for_the_node(tmp_path: Path) -> None:
    secrets = FileSecretStore(tmp_path)

    def refuse(*_: object) -> NoReturn:
        raise LoginRefused("Cannot connect to postgres-data: the SSH login as root was refused")

    session = replace(make_session(load([bundled_path("inventory.yaml")]), connector=refuse), secrets=secrets)
    with pytest.raises(LoginRefused) as caught:
        session.connect_to("postgres")
    assert f"does not accept the key {tmp_path}/operator_ed25519, which was made at 20" in caught.value.details
    assert f"copy of {tmp_path} from before, copy it back" in caught.value.resolution
    (line,) = [each for each in caught.value.resolution.splitlines() if "pct exec 167" in each]
    added = tmp_path / "authorized_keys"
    subprocess.run(
        ["sh", "-c", line.replace("pct exec 167 --", "").replace("/root/.ssh/authorized_keys", str(added))], check=True
    )
    assert added.read_text() == secrets.key_pair("operator")[1].strip() + "\n"


def test_settings_of_ubuntus_cloud_images_do_not_allow_passwords(tmp_path: Path) -> None:
    (ours,) = [
        step
        for step in steps(inventory(tmp_path), "postgres")
        if isinstance(step, File) and "/sshd_config.d/" in step.path
    ]
    folder, config = tmp_path / "sshd_config.d", tmp_path / "sshd_config"
    secret_store = FileSecretStore(tmp_path / "secrets")
    folder.mkdir()
    (folder / Path(ours.path).name).write_bytes(ours.content)
    (folder / "50-cloud-init.conf").write_text("PasswordAuthentication yes\n")
    secret_store.key_pair("host")
    config.write_text(f"Include {folder}/*.conf\nHostKey {secret_store.key_path('host')}\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    command = [*with_users(tmp_path, ""), str(SSHD), "-T", "-f", str(config)]
    effective = subprocess.run(
        command, env={**os.environ, "LD_LIBRARY_PATH": LIBRARIES}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "passwordauthentication no" in effective
    assert "permitrootlogin without-password" in effective


@pytest.fixture
def sshd_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SshdSettings]:
    """Return a function that writes an sshd_config and returns the deploy's step for it."""
    monkeypatch.setattr(remote_paths, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(tmp_path / "run"))
    Path("/run/sshd").mkdir(exist_ok=True)
    secret_store = FileSecretStore(tmp_path / "secrets")
    secret_store.key_pair("host")
    program = tmp_path / "sshd"
    words = shlex.join(["env", f"LD_LIBRARY_PATH={LIBRARIES}", *with_users(tmp_path, ""), str(SSHD)])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    folder, config = tmp_path / "sshd_config.d", tmp_path / "sshd_config"
    folder.mkdir()

    def make(text: str) -> SshdSettings:
        config.write_text(f"HostKey {secret_store.key_path('host')}\n{text.format(folder=folder)}\n")
        (step,) = [s for s in steps(inventory(tmp_path), "postgres") if isinstance(s, SshdSettings)]
        path = f"{folder}/{Path(step.path).name}"
        return replace(step, path=path, validate="", sshd=str(program), config=str(config))

    return make


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PasswordAuthentication yes",
        "PasswordAuthentication yes\nInclude {folder}/*.conf",
        "Include {folder}/*.conf\nPermitRootLogin yes",
    ],
)
def test_settings_are_in_force_whatever_sshd_config_contains(
    sshd_settings: Callable[[str], SshdSettings], text: str
) -> None:
    step = sshd_settings(text)
    converge(LocalHost(), [step], SilentProgress())
    assert pending_changes(LocalHost(), [step]) == []
    before = Path(step.config).read_text()
    assert converge(LocalHost(), [step], SilentProgress()) == []
    assert Path(step.config).read_text() == before
    assert before.endswith(f"{text.format(folder=Path(step.path).parent)}\n")


def test_lost_include_is_found_and_added(sshd_settings: Callable[[str], SshdSettings]) -> None:
    step = sshd_settings("Include {folder}/*.conf")
    converge(LocalHost(), [step], SilentProgress())
    sshd_settings("PasswordAuthentication yes")
    (change,) = converge(LocalHost(), [step], SilentProgress())
    assert change.pending.reason.startswith("not in force: passwordauthentication no")
    assert pending_changes(LocalHost(), [step]) == []


@pytest.mark.parametrize("match", ["Match user root", "Match user nobody", "Match all"])
def test_match_block_that_allows_passwords_is_an_error_that_names_it(
    sshd_settings: Callable[[str], SshdSettings], match: str
) -> None:
    step = sshd_settings(f"{match}\n  PasswordAuthentication yes")
    with pytest.raises(HomelabError, match="passwordauthentication no is not in force") as error:
        converge(LocalHost(), [step], SilentProgress())
    assert match in error.value.details
    assert "PasswordAuthentication yes" in error.value.details


MANAGED = "".join(line + "\n" for line in render("sshd.conf.j2").decode().splitlines() if line.startswith("SetEnv "))


@pytest.mark.parametrize(
    ("bashrc", "settings"),
    [("echo Welcome; echo Careful >&2", ""), ("echo Welcome", MANAGED), ("exit 3", MANAGED), ("exec false", MANAGED)],
)
def test_start_file_of_the_shell_has_no_effect(tmp_path: Path, bashrc: str, settings: str) -> None:
    with running_server(tmp_path, settings, bashrc) as server:
        server.known_hosts.pin("box", Pin(server.fingerprint))
        with server.client() as host:
            result = host.run("# a comment\ncat; echo done; echo bad >&2; exit 7", stdin=b"in\n")
            assert (result.stdout, result.stderr, result.status) == (b"in\ndone\n", b"bad\n", 7)
            assert [each.text for each in host.batch(["echo 1", "pwd"])] == ["1", str(tmp_path / "home")]
            assert host.run("true").stdout == b""


def test_shell_that_ends_before_the_first_deploy_is_named(tmp_path: Path) -> None:
    with running_server(tmp_path, "", "echo Bye; exit 3") as server:
        server.known_hosts.pin("box", Pin(server.fingerprint))
        with server.client() as host, pytest.raises(HomelabError, match="the shell of root ended before it") as caught:
            host.run("echo 1")
    assert caught.value.details == "Bye"
    assert "/root/.bashrc" in caught.value.resolution
