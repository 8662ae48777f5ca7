"""The engine: one batch, the right order, nothing owed forgotten wherever it is killed."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from homelab.errors import HomelabError
from homelab.host import ConnectionLost, Result, argv
from homelab.model import Step
from homelab.progress import SilentProgress, TerminalProgress
from homelab.steps import Command, Directory, File, Tree, WaitFor, remote_paths
from homelab.steps.converge import StepFailed, converge
from homelab.steps.host_state import clock_offset, pending_changes
from homelab.steps.locking import LockedHost, wait_until_idle
from tests.support import Kept, LocalHost, killed_before_each_command, owner_of_new_files


class Killed(BaseException):
    """What ends a run at a boundary; not an Exception, as SIGKILL is none."""


class Flaky(LocalHost):
    """Loses its connection once, at a command."""

    def __init__(self, point: int, when: str) -> None:
        super().__init__()
        self.left, self.when = point, when

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        self.left -= 1
        if self.left != -1:
            return super().run(command, stdin=stdin, timeout=timeout)
        if self.when == "after":
            super().run(command, stdin=stdin, timeout=timeout)
        raise ConnectionLost("local: the connection was lost")


class KilledAtItsEnd(LocalHost):
    """A shell that dies when all that it was to do is done: there is an answer, and no good status."""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        result = super().run(command, stdin=stdin, timeout=timeout)
        return replace(result, status=-1) if "and 4 more" in command else result


def stack(folder: Path, content: bytes = b"1\n") -> list[Step]:
    """A configuration, and a service that counts its restarts and runs with the configuration it last read."""
    config = File(str(folder / "config"), content, *owner_of_new_files())
    command = f"cp {folder}/config {folder}/running; echo restart >>{folder}/restarts"
    service = Command("service", argv("test", "-e", str(folder / "running")), command, triggered_by=[config])
    return [config, service]


def test_a_second_run_changes_nothing_in_one_round_trip(tmp_path: Path) -> None:
    assert [c.step.title for c in converge(LocalHost(), stack(tmp_path), SilentProgress())] == [
        f"file {tmp_path}/config",
        "service",
    ]
    host = LocalHost()
    assert converge(host, stack(tmp_path), SilentProgress()) == []
    assert (host.batches, host.ran) == (1, [])


def test_a_change_reaches_what_watches_it(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    changes = converge(LocalHost(), stack(tmp_path, b"2\n"), SilentProgress())
    assert str(changes[1]) == f"service: because of file {tmp_path}/config"
    assert (tmp_path / "running").read_bytes() == b"2\n"
    assert (tmp_path / "restarts").read_text() == "restart\n" * 2


def several(folder: Path, middle: bytes = b"x") -> list[Step]:
    """What goes over together, between two commands that do not; the file in the middle has to be valid."""
    me = owner_of_new_files()
    return [
        Command("first", argv("test", "-e", f"{folder}/first"), f"touch {folder}/first"),
        Directory(f"{folder}/etc", *me, 0o700),
        File(f"{folder}/etc/large", b"0123456789\n" * 10_000, *me),
        watched := File(
            f"{folder}/etc/middle", middle, *me, validate='grep -q x "$new" || { echo "no x" >&2; exit 4; }'
        ),
        Tree(f"{folder}/etc/tree", {"a": b"a", "b/c": b"c"}),
        File(f"{folder}/etc/it's last", b"", *me),
        Command("last", argv("test", "-e", f"{folder}/last"), f"touch {folder}/last", triggered_by=[watched]),
    ]


def test_files_that_stand_one_after_another_go_over_in_one_command(tmp_path: Path) -> None:
    host, said = LocalHost(), io.StringIO()
    steps = several(tmp_path)
    changes = converge(host, steps, TerminalProgress(Console(file=said, width=300)))
    assert [change.step for change in changes] == steps
    assert len([ran for ran in host.ran if "mktemp" in ran]) == 1
    assert f"directory {tmp_path}/etc and 4 more" in said.getvalue()
    assert (tmp_path / "etc" / "large").stat().st_size == 110_000
    assert (tmp_path / "etc" / "tree" / "b" / "c").read_bytes() == b"c"
    assert pending_changes(LocalHost(), steps) == []


def test_one_that_fails_among_several_is_named(tmp_path: Path) -> None:
    """Those before it are done, those after it not begun; once it is mended, only the rest is done."""
    with pytest.raises(StepFailed) as error:
        converge(LocalHost(), several(tmp_path, b"y"), SilentProgress())
    assert error.value.brief == f"local: writing {tmp_path}/etc/middle failed"
    assert "ended with status 4\n  no x" in error.value.details
    assert [change.step.title for change in error.value.changed] == [
        "first",
        f"directory {tmp_path}/etc",
        f"file {tmp_path}/etc/large",
    ]
    assert (
        f"3 changes were made before it; `file {tmp_path}/etc/middle` may be half done; not begun: tree "
        f"{tmp_path}/etc/tree, file {tmp_path}/etc/it's last, last."
    ) in error.value.details
    assert [change.step.title for change in converge(LocalHost(), several(tmp_path), SilentProgress())] == [
        f"file {tmp_path}/etc/middle",
        f"tree {tmp_path}/etc/tree",
        f"file {tmp_path}/etc/it's last",
        "last",
    ]


def test_a_shell_that_is_killed_after_the_last_of_several_has_done_them_all(tmp_path: Path) -> None:
    steps = several(tmp_path)
    assert [change.step for change in converge(KilledAtItsEnd(), steps, SilentProgress())] == steps
    assert pending_changes(LocalHost(), steps) == []


def test_no_command_becomes_too_long_for_linux(tmp_path: Path) -> None:
    host = LocalHost()
    steps = [File(f"{tmp_path}/it's {'long ' * 30}{number}", b"'", *owner_of_new_files()) for number in range(120)]
    assert len(converge(host, steps, SilentProgress())) == 120
    assert 1 < len([ran for ran in host.ran if "mktemp" in ran]) < 30
    assert max(map(len, host.ran)) < 131_072
    assert pending_changes(LocalHost(), steps) == []


@pytest.mark.parametrize("lost", [False, True])
def test_what_had_no_answer_is_looked_at_again_once_there_is_one(tmp_path: Path, lost: bool) -> None:
    """As Airflow's metadata, while PostgreSQL is being restarted: what is in there need not be made again."""
    server, log, table = tmp_path / "server", tmp_path / "log", tmp_path / "table"
    config = File(str(tmp_path / "config"), b"1\n", *owner_of_new_files())
    wait = WaitFor("the server answers", argv("test", "-e", str(server)), "data", early=True)
    made = Command("table", f"test -e {server} && test -e {table}", f"echo table >>{log}; touch {table}")
    unit = Command("unit", f"test -e {server}", f"echo unit >>{log}", triggered_by=[made])
    other = Command("other", f"test -e {server}", f"echo other >>{log}", triggered_by=[config])
    if not lost:
        table.touch()
    host = LocalHost(before=lambda command: server.touch() if wait.probe in command else None)
    changes = converge(host, [config, wait, made, unit, other], SilentProgress())
    acted = ["table", "unit", "other"] if lost else ["other"]
    assert [c.step.title for c in changes] == [config.title, wait.title, *acted]
    assert log.read_text().split() == acted
    assert pending_changes(LocalHost(), [config, wait, made, unit, other]) == [], "nothing is owed"


def test_what_nothing_waits_for_is_not_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = File(str(tmp_path / "config"), b"1\n", *owner_of_new_files())
    steps = [
        config,
        WaitFor("first", f"echo first >>{log}", "c"),
        Command("unit", f"grep -qs unit {log}", f"echo unit >>{log}"),
        WaitFor("last", f"echo last >>{log}", "c"),
    ]
    assert [c.step.title for c in converge(LocalHost(), steps, SilentProgress())] == [config.title, "first", "unit"]
    assert log.read_text().split() == ["first", "unit"]
    assert converge(LocalHost(), steps, SilentProgress()) == []
    assert log.read_text().split() == ["first", "unit"]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    assert len(pending_changes(LocalHost(), stack(tmp_path))) == 2
    assert list(tmp_path.iterdir()) == []


def test_killed_between_any_two_of_several_the_next_run_finishes(tmp_path: Path) -> None:
    def run(host: LocalHost) -> None:
        converge(host, several(tmp_path, b"x2"), SilentProgress())

    converge(LocalHost(), several(tmp_path)[:4], SilentProgress())
    done = 0
    for done in killed_before_each_command(run, tmp_path, Path(remote_paths.STATE)):
        run(LocalHost())
        assert (tmp_path / "etc" / "middle").read_bytes() == b"x2", f"killed at point {done + 1}"
        assert (tmp_path / "last").exists()
        assert pending_changes(LocalHost(), several(tmp_path, b"x2")) == []
    assert done == 7, "before notes, each of the three that go together, the last, its marker, notes; and the end"


def test_killed_at_every_command_the_next_run_finishes(tmp_path: Path) -> None:
    def run(host: LocalHost) -> None:
        converge(host, stack(tmp_path, b"2\n"), SilentProgress())

    converge(LocalHost(), stack(tmp_path), SilentProgress())
    done = 0
    for done in killed_before_each_command(run, tmp_path, Path(remote_paths.STATE)):
        run(LocalHost())
        assert (tmp_path / "running").read_bytes() == b"2\n", f"killed before command {done + 1}"
        assert pending_changes(LocalHost(), stack(tmp_path, b"2\n")) == []
    assert done > 3, "the walk must have met every boundary"


def test_a_manifest_that_was_only_half_put_in_place_is_cleared_away(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    left = Path(remote_paths.owed()) / "manifest.new"
    left.write_text("file /half")
    assert converge(LocalHost(), stack(tmp_path), SilentProgress()) == []
    assert not left.exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_lost_at_any_command_is_taken_up_again(tmp_path: Path, when: str) -> None:
    """Lost before a command has begun, or after it has done all and its answer is lost."""
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    first = Kept(tmp_path, Path(remote_paths.STATE))
    point, lost = 0, True
    while lost:
        first.put_back()
        host = Flaky(point, when)
        changes = converge(host, stack(tmp_path, b"2\n"), SilentProgress())
        lost = host.reconnected == 1
        assert [c.step.title for c in changes] == [f"file {tmp_path}/config", "service"], f"lost at command {point + 1}"
        assert (tmp_path / "running").read_bytes() == b"2\n"
        assert pending_changes(LocalHost(), stack(tmp_path, b"2\n")) == []
        point += 1
    assert point > 3, "the walk must have met every boundary"
    assert (tmp_path / "restarts").read_text() == "restart\n" * 2, "without a loss, once for each content"


def test_a_connection_that_is_lost_again_and_again_is_an_error(tmp_path: Path) -> None:
    def lose(command: str) -> None:
        raise ConnectionLost("local: the connection was lost")

    host = LocalHost(before=lose)
    with pytest.raises(ConnectionLost):
        converge(host, stack(tmp_path), SilentProgress())
    assert host.reconnected > 1


def test_what_an_earlier_run_began_is_waited_for_and_not_begun_again(tmp_path: Path) -> None:
    log, made = tmp_path / "log", tmp_path / "made"
    step = Command("long", argv("test", "-e", str(made)), f"echo began >>{log}; sleep 0.5; touch {made}")
    first = threading.Thread(target=LockedHost(LocalHost(), SilentProgress()).run, args=(step.command,))
    first.start()  # as a command of a run that was killed: nobody waits for it
    while not log.exists():
        time.sleep(0.01)
    assert converge(LocalHost(), [step], SilentProgress()) == []
    assert log.read_text() == "began\n"
    first.join()


def test_what_does_not_end_is_named(tmp_path: Path) -> None:
    made = tmp_path / "made"
    first = threading.Thread(target=LockedHost(LocalHost(), SilentProgress()).run, args=(f"touch {made}; sleep 2",))
    first.start()
    while not made.exists():
        time.sleep(0.01)
    with pytest.raises(HomelabError) as error:
        wait_until_idle(LocalHost(), 0.1)
    assert "sleep 2" in error.value.details
    first.join()


def test_a_command_that_takes_too_long_is_ended_over_there(tmp_path: Path) -> None:
    host = LockedHost(LocalHost(), SilentProgress())
    with pytest.raises(HomelabError, match=r"ended after 1 s: `echo so far; sleep 7") as error:
        host.run("echo so far; sleep 7 && touch never", timeout=1)
    assert "so far" in error.value.details
    assert host.run("echo next").text == "next", "it holds nothing any more"


@pytest.mark.parametrize(("content", "most"), [(b"small", 5), (b"large\n" * 100_000, 2000)])
def test_what_is_large_goes_over_compressed(tmp_path: Path, content: bytes, most: int) -> None:
    sent = []

    class Line(LocalHost):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
            sent.append(len(stdin))
            return super().run(command, stdin=stdin, timeout=timeout)

    assert LockedHost(Line(), SilentProgress()).run(f"cat >{tmp_path}/file; exit 3", stdin=content).status == 3
    assert (tmp_path / "file").read_bytes() == content
    assert sent[0] <= most


def test_half_of_standard_input_begins_nothing(tmp_path: Path) -> None:
    class Half(LocalHost):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
            return super().run(command, stdin=stdin[:2], timeout=timeout)

    assert not LockedHost(Half(), SilentProgress()).run(f"cat >{tmp_path}/file", stdin=b"whole").ok
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(("clock", "off"), [(1000, 0), (1009, 0), (990, -10), (1040, 30)])
def test_a_clock_that_is_off_by_more_than_the_question_took_is_noticed(clock: int, off: float) -> None:
    assert clock_offset(clock, 1000.0, 1010.0) == off


def test_a_clock_that_is_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "date").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "date").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = io.StringIO()
    converge(LocalHost(), [], TerminalProgress(Console(file=said, width=300)))
    assert "behind: set that of its node" in said.getvalue()


def test_a_step_that_does_not_take_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HomelabError, match="did not take"):
        converge(LocalHost(), [Command("useless", "false", "true")], SilentProgress())


def test_what_was_waited_for_and_is_slow_to_answer_again_is_no_error(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    second = f"echo >>{asked}; [ $(wc -l <{asked}) = 2 ]"  # as a service on a busy machine, which answers now and then
    assert len(converge(LocalHost(), [WaitFor("w", second, "c", early=True)], SilentProgress())) == 1


def test_a_step_that_fails_stops_what_comes_after(tmp_path: Path) -> None:
    later = File(str(tmp_path / "later"), b"", *owner_of_new_files())
    with pytest.raises(HomelabError) as error:
        converge(LocalHost(), [Command("c", "false", "echo why >&2; exit 3"), later], SilentProgress())
    assert "status 3" in str(error.value)
    assert "why" in str(error.value)
    assert not (tmp_path / "later").exists()


def test_what_a_failure_means_is_found_above_the_last_lines_too(tmp_path: Path) -> None:
    said = "echo DO NOT MATCH THE HASHES >&2; for i in $(seq 30); do echo expected $i >&2; done; exit 1"
    with pytest.raises(HomelabError) as error:
        converge(LocalHost(), [Command("c", "false", said)], SilentProgress())
    assert "expected 1\n" not in error.value.details
    assert "not what its hash says" in error.value.details
