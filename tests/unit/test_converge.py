"""The convergence engine: one batch of probes, the order of steps, and runs that are killed at any command."""

from __future__ import annotations

import io
import os
import re
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
from homelab.steps import Command, Directory, File, Refuse, Sql, Tree, WaitFor, remote_paths
from homelab.steps.converge import StepFailed, converge
from homelab.steps.host_state import clock_offset, pending_changes
from homelab.steps.locking import LockedHost, wait_until_idle
from homelab.steps.queries import Query
from tests.support import LocalHost, SavedFolders, killed_before_each_command, owner_of_new_files


class Killed(BaseException):
    """The end of a run before a command; no Exception, so that no handler catches it, as with SIGKILL."""


class FlakyHost(LocalHost):
    """A host that loses its connection once, before or after a command."""

    def __init__(self, commands: int, when: str) -> None:
        super().__init__()
        self.commands_left, self.when = commands, when

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        self.commands_left -= 1
        if self.commands_left != -1:
            return super().run(command, stdin=stdin, timeout=timeout)
        if self.when == "after":
            super().run(command, stdin=stdin, timeout=timeout)
        raise ConnectionLost("Cannot finish a command on local: the connection was lost")


class KilledAfterLastStep(LocalHost):
    """A host that kills the shell after the last step of a batch: complete output, but a status other than 0."""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        """See Host.run."""
        result = super().run(command, stdin=stdin, timeout=timeout)
        return replace(result, status=-1) if " and 4 more" in command else result


def stack(folder: Path, content: bytes = b"1\n") -> list[Step]:
    """Return a configuration file, and a service that logs its restarts and copies the file at each of them."""
    config = File(str(folder / "config"), content, *owner_of_new_files())
    command = f"cp {folder}/config {folder}/running; echo restart >>{folder}/restarts"
    service = Command("service", argv("test", "-e", str(folder / "running")), command, triggered_by=[config])
    return [config, service]


def test_second_run_changes_nothing_in_one_round_trip(tmp_path: Path) -> None:
    assert [c.step.title for c in converge(LocalHost(), stack(tmp_path), SilentProgress())] == [
        f"file {tmp_path}/config",
        "service",
    ]
    host = LocalHost()
    assert converge(host, stack(tmp_path), SilentProgress()) == []
    assert (host.batches, host.ran) == (1, [])


def test_change_triggers_the_steps_that_depend_on_it(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    changes = converge(LocalHost(), stack(tmp_path, b"2\n"), SilentProgress())
    assert str(changes[1]) == f"service: because of file {tmp_path}/config"
    assert (tmp_path / "running").read_bytes() == b"2\n"
    assert (tmp_path / "restarts").read_text() == "restart\n" * 2


def batch_steps(folder: Path, middle: bytes = b"x") -> list[Step]:
    """Return five steps of one batch between two single ones; the file in the middle has a validation."""
    owner = owner_of_new_files()
    return [
        Command("first", argv("test", "-e", f"{folder}/first"), f"touch {folder}/first"),
        Directory(f"{folder}/etc", *owner, 0o700),
        File(f"{folder}/etc/large", b"0123456789\n" * 10_000, *owner),
        trigger := File(
            f"{folder}/etc/middle", middle, *owner, validate='grep -q x "$new" || { echo "no x" >&2; exit 4; }'
        ),
        Tree(f"{folder}/etc/tree", {"a": b"a", "b/c": b"c"}),
        File(f"{folder}/etc/it's last", b"", *owner),
        Command("last", argv("test", "-e", f"{folder}/last"), f"touch {folder}/last", triggered_by=[trigger]),
    ]


def test_consecutive_files_are_sent_in_one_command(tmp_path: Path) -> None:
    host, output = LocalHost(), io.StringIO()
    steps = batch_steps(tmp_path)
    changes = converge(host, steps, TerminalProgress(Console(file=output, width=300)))
    assert [change.step for change in changes] == steps
    written = [command for command in host.ran if f"{tmp_path}/etc" in command]
    assert len(written) == 1
    assert f"directory {tmp_path}/etc and 4 more" in output.getvalue()
    assert (tmp_path / "etc" / "large").stat().st_size == 110_000
    assert (tmp_path / "etc" / "tree" / "b" / "c").read_bytes() == b"c"
    assert pending_changes(LocalHost(), steps) == []


def test_failed_step_of_a_batch_is_named(tmp_path: Path) -> None:
    """The steps before it are applied, the steps after it are not; the next run applies only the rest."""
    with pytest.raises(StepFailed) as error:
        converge(LocalHost(), batch_steps(tmp_path, b"y"), SilentProgress())
    assert error.value.brief == f"Cannot write {tmp_path}/etc/middle on local: the command failed"
    assert "ended with status 4\n  no x" in error.value.details
    assert [change.step.title for change in error.value.changed] == [
        "first",
        f"directory {tmp_path}/etc",
        f"file {tmp_path}/etc/large",
    ]
    assert (
        f"3 changes were made before it; `file {tmp_path}/etc/middle` may be half done; not started: tree "
        f"{tmp_path}/etc/tree, file {tmp_path}/etc/it's last, last."
    ) in error.value.details
    assert [change.step.title for change in converge(LocalHost(), batch_steps(tmp_path), SilentProgress())] == [
        f"file {tmp_path}/etc/middle",
        f"tree {tmp_path}/etc/tree",
        f"file {tmp_path}/etc/it's last",
        "last",
    ]


def test_shell_that_is_killed_after_the_last_step_of_a_batch_has_applied_all(tmp_path: Path) -> None:
    steps = batch_steps(tmp_path)
    assert [change.step for change in converge(KilledAfterLastStep(), steps, SilentProgress())] == steps
    assert pending_changes(LocalHost(), steps) == []


@pytest.mark.slow
def test_no_command_becomes_too_long_for_linux(tmp_path: Path) -> None:
    host = LocalHost()
    steps = [File(f"{tmp_path}/it's {'long ' * 30}{number}", b"'", *owner_of_new_files()) for number in range(40)]
    assert len(converge(host, steps, SilentProgress())) == 40
    assert 1 < len([ran for ran in host.ran if f"{tmp_path}/" in ran]) < 15
    assert max(map(len, host.ran)) < 131_072
    assert pending_changes(LocalHost(), steps) == []


@pytest.mark.parametrize("lost", [False, True])
def test_probes_without_an_answer_are_repeated_after_the_wait(tmp_path: Path, lost: bool) -> None:
    """As with Airflow's metadata while PostgreSQL restarts: existing tables are not created again."""
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
    applied = ["table", "unit", "other"] if lost else ["other"]
    assert [c.step.title for c in changes] == [config.title, wait.title, *applied]
    assert log.read_text().split() == applied
    assert pending_changes(LocalHost(), [config, wait, made, unit, other]) == [], "no marker is left"


def test_unit_whose_database_was_away_is_restarted_after_the_wait_even_if_it_is_active(tmp_path: Path) -> None:
    """It has started without its database, and ends some seconds later."""
    server, log = tmp_path / "server", tmp_path / "log"
    wait = WaitFor("the server answers", f"test -e {server}", "data", early=True)
    unit = Command("unit", "true", f"echo unit >>{log}", triggered_by=[wait])
    assert [str(change) for change in pending_changes(LocalHost(), [wait, unit])][1:] == [f"unit: because of {wait}"]
    host = LocalHost(before=lambda command: server.touch() if wait.probe in command else None)
    changes = converge(host, [wait, unit], SilentProgress())
    assert [str(change) for change in changes] == ["the server answers: not yet", f"unit: because of {wait}"]
    assert log.read_text() == "unit\n"
    assert converge(LocalHost(), [wait, unit], SilentProgress()) == []


def test_plan_leaves_out_a_step_that_only_an_unchecked_one_would_trigger(tmp_path: Path) -> None:
    unreachable = "exit 2; psql"  # psql's status without a connection
    wait = WaitFor("it answers", Query(unreachable, "d", "select 1"), "data", early=True)
    table = Sql("table", "select true", "", psql=unreachable)
    units = [Command("a", "true", "true", triggered_by=[table]), Command("b", "true", "true", triggered_by=[wait])]
    shown = [str(change) for change in pending_changes(LocalHost(), [wait, table, *units])]
    assert shown == ["b: because of it answers", "PostgreSQL: not reachable: roles and databases were not checked"]


def test_wait_that_no_later_step_needs_is_skipped(tmp_path: Path) -> None:
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


def test_inspection_changes_nothing(tmp_path: Path) -> None:
    assert len(pending_changes(LocalHost(), stack(tmp_path))) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_run_killed_between_two_steps_of_a_batch_is_finished_by_the_next(tmp_path: Path) -> None:
    def run(host: LocalHost) -> None:
        converge(host, batch_steps(tmp_path, b"x2"), SilentProgress())

    converge(LocalHost(), batch_steps(tmp_path)[:4], SilentProgress())
    done = 0
    for done in killed_before_each_command(run, tmp_path, Path(remote_paths.STATE)):
        run(LocalHost())
        assert (tmp_path / "etc" / "middle").read_bytes() == b"x2", f"killed at point {done + 1}"
        assert (tmp_path / "last").exists()
        assert pending_changes(LocalHost(), batch_steps(tmp_path, b"x2")) == []
    assert done == 7, "before the notes, each of the three batched steps, the last, its marker, the notes; and the end"


@pytest.mark.slow
def test_run_killed_at_any_command_is_finished_by_the_next(tmp_path: Path) -> None:
    def run(host: LocalHost) -> None:
        converge(host, stack(tmp_path, b"2\n"), SilentProgress())

    converge(LocalHost(), stack(tmp_path), SilentProgress())
    done = 0
    for done in killed_before_each_command(run, tmp_path, Path(remote_paths.STATE)):
        run(LocalHost())
        assert (tmp_path / "running").read_bytes() == b"2\n", f"killed before command {done + 1}"
        assert pending_changes(LocalHost(), stack(tmp_path, b"2\n")) == []
    assert done > 3, "the walk must have met every boundary"


def test_incomplete_manifest_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    left = Path(remote_paths.markers()) / "manifest.new"
    left.write_text("file /half")
    assert converge(LocalHost(), stack(tmp_path), SilentProgress()) == []
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_run_continues_after_a_connection_lost_at_any_command(tmp_path: Path, when: str) -> None:
    """The connection is lost before a command starts, or after its end and before its answer."""
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    first = SavedFolders(tmp_path, Path(remote_paths.STATE))
    point, lost = 0, True
    while lost:
        first.restore()
        host = FlakyHost(point, when)
        changes = converge(host, stack(tmp_path, b"2\n"), SilentProgress())
        lost = host.reconnected == 1
        assert [c.step.title for c in changes] == [f"file {tmp_path}/config", "service"], f"lost at command {point + 1}"
        assert (tmp_path / "running").read_bytes() == b"2\n"
        assert pending_changes(LocalHost(), stack(tmp_path, b"2\n")) == []
        point += 1
    assert point > 3, "the walk must have met every boundary"
    assert (tmp_path / "restarts").read_text() == "restart\n" * 2, "without a loss, once for each content"


def test_connection_that_is_lost_repeatedly_is_an_error(tmp_path: Path) -> None:
    def lose(command: str) -> None:
        raise ConnectionLost("Cannot finish a command on local: the connection was lost")

    host = LocalHost(before=lose)
    with pytest.raises(ConnectionLost):
        converge(host, stack(tmp_path), SilentProgress())
    assert host.reconnected > 1


def test_command_of_an_earlier_run_is_awaited_and_not_repeated(tmp_path: Path) -> None:
    log, made = tmp_path / "log", tmp_path / "made"
    step = Command("long", argv("test", "-e", str(made)), f"echo started >>{log}; sleep 0.3; touch {made}")
    first = threading.Thread(target=LockedHost(LocalHost(), SilentProgress()).run, args=(step.command,))
    first.start()  # like a command of a killed run
    while not log.exists():
        time.sleep(0.01)
    assert converge(LocalHost(), [step], SilentProgress()) == []
    assert log.read_text() == "started\n"
    first.join()


def test_process_that_does_not_end_is_named(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    command = f"cat {pipe}"
    first = threading.Thread(target=LockedHost(LocalHost(), SilentProgress()).run, args=(command,))
    first.start()
    with pipe.open("wb"), pytest.raises(HomelabError) as error:  # `cat` has opened it, and ends with the block
        wait_until_idle(LocalHost(), 0.1)
    first.join()
    assert re.search(rf"process \d+: cat {pipe}", error.value.details)
    assert f"command: {command}" in error.value.details


def test_command_is_ended_on_the_host_at_its_deadline(tmp_path: Path) -> None:
    host = LockedHost(LocalHost(), SilentProgress())
    with pytest.raises(HomelabError, match=r"ended after 1 s\n`echo so far; sleep 7") as error:
        host.run("echo so far; sleep 7 && touch never", timeout=1)
    assert "so far" in error.value.details
    assert host.run("echo next").text == "next", "the lock is free again"


@pytest.mark.parametrize(("content", "most"), [(b"small", 5), (b"large\n" * 100_000, 2000)])
def test_large_input_is_compressed(tmp_path: Path, content: bytes, most: int) -> None:
    sent = []

    class Recorder(LocalHost):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
            sent.append(len(stdin))
            return super().run(command, stdin=stdin, timeout=timeout)

    assert LockedHost(Recorder(), SilentProgress()).run(f"cat >{tmp_path}/file; exit 3", stdin=content).status == 3
    assert (tmp_path / "file").read_bytes() == content
    assert sent[0] <= most


def test_command_does_not_start_with_incomplete_input(tmp_path: Path) -> None:
    class Truncating(LocalHost):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
            return super().run(command, stdin=stdin[:2], timeout=timeout)

    assert not LockedHost(Truncating(), SilentProgress()).run(f"cat >{tmp_path}/file", stdin=b"whole").ok
    assert not (tmp_path / "file").exists()


def test_command_does_not_start_with_an_incomplete_text(tmp_path: Path) -> None:
    """As after a kill of the process that writes the here-document: the shell must not run its beginning."""

    class Truncating(LocalHost):
        def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
            return super().run(command.replace("/second\n}\n", "/sec\n"), stdin=stdin, timeout=timeout)

    result = LockedHost(Truncating(), SilentProgress()).run(f"touch {tmp_path}/first\ntouch {tmp_path}/second")
    assert not result.ok
    assert list(tmp_path.iterdir()) == []


def test_command_runs_with_its_exact_text() -> None:
    """Quotes, expansions and here-documents of the command do not interfere with those around it."""
    command = "\n".join(
        [
            "x='it'\\''s'; cat <<'EOF'; printf '%s\\n' \"$x\" \"$(cat)\" `echo back`",
            "}",
            '\\ $x "',
            "EOF",
            "exit 3 # the end",
        ]
    )
    result = LockedHost(LocalHost(), SilentProgress()).run(command, stdin=b"input")
    assert (result.status, result.text) == (3, "}\n\\ $x \"\nit's\ninput\nback")


@pytest.mark.parametrize(("clock", "offset"), [(1000, 0), (1009, 0), (990, -10), (1040, 30)])
def test_clock_offset_excludes_the_duration_of_the_probe(clock: int, offset: float) -> None:
    assert clock_offset(clock, 1000.0, 1010.0) == offset


def test_wrong_clock_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "date").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "date").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    output = io.StringIO()
    converge(LocalHost(), [], TerminalProgress(Console(file=output, width=300)))
    assert "behind: set the clock of its node" in output.getvalue()


def test_step_that_is_still_pending_after_it_was_applied_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HomelabError, match="still pending afterwards"):
        converge(LocalHost(), [Command("useless", "false", "true")], SilentProgress())


def test_wait_is_not_checked_again(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    second = f"echo >>{asked}; [ $(wc -l <{asked}) = 2 ]"  # like a service on a busy machine
    assert len(converge(LocalHost(), [WaitFor("w", second, "c", early=True)], SilentProgress())) == 1


def test_failed_step_stops_the_run(tmp_path: Path) -> None:
    later = File(str(tmp_path / "later"), b"", *owner_of_new_files())
    with pytest.raises(HomelabError) as error:
        converge(LocalHost(), [Command("c", "false", "echo why >&2; exit 3"), later], SilentProgress())
    assert "status 3" in str(error.value)
    assert "why" in str(error.value)
    assert not (tmp_path / "later").exists()


def test_refusal_comes_before_removals_and_other_changes(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    manifest = Path(remote_paths.manifest()).read_text()
    refuse = Refuse("version is kept", "echo t", HomelabError("Cannot change the version"))
    other = File(f"{tmp_path}/other", b"", *owner_of_new_files())
    with pytest.raises(StepFailed, match="Cannot change the version") as caught:
        converge(LocalHost(), [other, refuse], SilentProgress())
    assert "Nothing was changed before it" in caught.value.details
    assert f"not started: remove file {tmp_path}/config, file {tmp_path}/other" in caught.value.details
    assert ((tmp_path / "config").exists(), (tmp_path / "other").exists()) == (True, False)
    assert Path(remote_paths.manifest()).read_text() == manifest


def test_known_cause_is_found_above_the_last_lines(tmp_path: Path) -> None:
    command = "echo DO NOT MATCH THE HASHES >&2; for i in $(seq 30); do echo expected $i >&2; done; exit 1"
    with pytest.raises(HomelabError) as error:
        converge(LocalHost(), [Command("c", "false", command)], SilentProgress())
    assert "expected 1\n" not in error.value.details
    assert "does not match its hash" in error.value.details


def parts(folder: Path, broken: str) -> list[Step]:
    """Return a shared file, two parts with a tree and a file that follows it, and a last step of no part."""
    check = f'grep -q {{}} "$new"/dag && ! grep -q "{broken}" "$new"/dag || {{ echo "no {{}}" >&2; exit 3; }}'
    owner = owner_of_new_files()
    found: list[Step] = [File(f"{folder}/shared", b"", *owner)]
    for name in ("one", "two"):
        tree = Tree(f"{folder}/{name}", {"dag": name.encode()}, check.replace("{}", name), part=name)
        mark = f"{folder}/{name}.followed"
        found += [tree, Command(f"{name} follows", f"test -e {mark}", f"touch {mark}", triggered_by=[tree], part=name)]
    return [*found, Command("last", f"test -e {folder}/last", f"touch {folder}/last", triggered_by=found[:1])]


@pytest.mark.parametrize(("broken", "deployed"), [("one", "two"), ("two", "one")])
def test_failed_part_does_not_stop_the_others(tmp_path: Path, broken: str, deployed: str) -> None:
    with pytest.raises(StepFailed) as failure:
        converge(LocalHost(), parts(tmp_path, broken), SilentProgress())
    assert f"no {broken}" in failure.value.details
    assert f"Of {broken}, not started: {broken} follows. Everything else on local is deployed." in failure.value.details
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("homelab", "run")) == sorted(
        ["shared", deployed, f"{deployed}.followed", "last"]
    )
    assert [str(change.step) for change in failure.value.changed] == [
        f"file {tmp_path}/shared",
        f"tree {tmp_path}/{deployed}",
        f"{deployed} follows",
        "last",
    ]
    # The next run tries again, and only that part.
    assert [change.step.part for change in converge(LocalHost(), parts(tmp_path, "-"), SilentProgress())] == [
        broken
    ] * 2


def test_all_failed_parts_are_reported(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as failure:
        converge(LocalHost(), parts(tmp_path, "."), SilentProgress())
    assert "no one" in failure.value.details
    assert "no two" in failure.value.details
    assert (tmp_path / "last").exists()


def test_invalid_tree_leaves_the_earlier_one(tmp_path: Path) -> None:
    def tree(content: bytes) -> Tree:
        return Tree(f"{tmp_path}/tree", {"dag": content}, 'grep -q good "$new"/dag')

    converge(LocalHost(), [tree(b"good")], SilentProgress())
    with pytest.raises(StepFailed):
        converge(LocalHost(), [tree(b"bad")], SilentProgress())
    assert (tmp_path / "tree" / "dag").read_bytes() == b"good"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("tree")) == ["tree"]
