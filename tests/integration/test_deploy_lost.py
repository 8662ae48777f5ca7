"""The convergence engine over a real sshd: after a lost connection, a running command is awaited, not repeated."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.known_hosts import Pin
from homelab.progress import SilentProgress
from homelab.ssh import Keepalive, Ssh
from homelab.steps import Command, File
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.integration.flaky_proxy import FlakyProxy
from tests.integration.test_ssh import Server, missing_prerequisite, server  # noqa: F401 - a fixture
from tests.support import owner_of_new_files

pytestmark = pytest.mark.skipif(bool(missing_prerequisite()), reason=missing_prerequisite() or "nothing")


def when(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    """Call `act` from another thread as soon as the condition is true."""

    def wait() -> None:
        until = time.monotonic() + 120
        while not condition() and time.monotonic() < until:
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def line(server: Server) -> object:  # noqa: F811
    server.known_hosts.pin("box", Pin(server.fingerprint))
    with FlakyProxy(server.port) as line:
        yield line


def long_command(folder: Path) -> Command:
    """Return a command of two seconds that logs its start, and prints all the time, as apt does."""
    return Command(
        "long",
        argv("test", "-e", str(folder / "made")),
        f"echo started >>{folder}/log; for i in $(seq 20); do echo $i; sleep 0.1; done; touch {folder}/made",
    )


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_running_command_is_awaited_after_a_lost_connection(
    server: Server,  # noqa: F811
    line: FlakyProxy,
    tmp_path: Path,
    how: str,
) -> None:
    when((tmp_path / "log").exists, getattr(line, how))
    when(lambda: (tmp_path / "log").exists() and line.frozen, lambda: time.sleep(1.2) or line.mend())
    with server.client(line.port, Keepalive(0.2, 0.5)) as host:
        changes = converge(host, [long_command(tmp_path)], SilentProgress())
    assert [c.step.title for c in changes] == ["long"]
    assert (tmp_path / "log").read_text() == "started\n"


def test_file_is_never_incomplete_after_a_lost_connection(server: Server, line: FlakyProxy, tmp_path: Path) -> None:  # noqa: F811
    path, content = tmp_path / "file", os.urandom(1 << 22)  # incompressible
    path.write_bytes(b"old")
    seen: set[bytes] = set()
    step = File(str(path), content, *owner_of_new_files())

    class CutDuringInput(Ssh):
        """A connection that is cut during the first long standard input."""

        cut = False

        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> object:  # type: ignore[override]
            if len(stdin) >= len(content) and not CutDuringInput.cut:
                CutDuringInput.cut = True
                threading.Timer(0.05, line.cut).start()
            try:
                return super().run(command, stdin=stdin, timeout=timeout)
            finally:
                seen.add(path.read_bytes())

    key, _ = server.secret_store.key_pair("operator")
    with CutDuringInput("box", "127.0.0.1", key, server.known_hosts, port=line.port) as host:
        converge(host, [step], SilentProgress())
        assert pending_changes(host, [step]) == []
    assert CutDuringInput.cut
    assert seen == {b"old", content}


def test_run_without_changes_takes_at_most_four_round_trips(
    server: Server,  # noqa: F811
    line: FlakyProxy,
    tmp_path: Path,
) -> None:
    """For any number of steps: the session, the command, its answer; one is a reserve."""
    steps = [File(str(tmp_path / f"file-{number}"), b"x" * 500, *owner_of_new_files()) for number in range(12)]
    with server.client(line.port) as host:
        host.connect()
        converge(host, steps, SilentProgress())
        before = line.turns
        assert converge(host, steps, SilentProgress()) == []
        assert 1 <= line.turns - before <= 4


def test_machine_that_stays_away_is_an_error(
    server: Server,  # noqa: F811
    line: FlakyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("homelab.steps.converge.REBOOT", 0.5)
    when((tmp_path / "log").exists, line.stop)
    with server.client(line.port) as host, pytest.raises(HomelabError, match="no answer over SSH"):
        converge(host, [long_command(tmp_path)], SilentProgress())
    host = server.client()
    with host:
        assert converge(host, [long_command(tmp_path)], SilentProgress()) == [], "the next run waits, too"


def test_children_of_a_killed_shell_are_awaited(server: Server, tmp_path: Path) -> None:  # noqa: F811
    server.known_hosts.pin("box", Pin(server.fingerprint))
    step = Command(
        "long", argv("test", "-e", str(tmp_path / "made")), f"(sleep 1; touch {tmp_path}/made) & kill -9 $PPID $$"
    )
    with server.client() as host:
        with pytest.raises(HomelabError):
            converge(host, [step], SilentProgress())
        assert converge(host, [step], SilentProgress()) == []
