"""The engine: one batch, the right order, nothing owed forgotten wherever it is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.model import Step
from homelab.progress import SilentProgress
from homelab.steps import Command, File
from homelab.steps import converge as engine
from homelab.steps.converge import converge, survey
from tests.support import LocalHost, owner_of_new_files


class Killed(BaseException):
    """What ends a run at a boundary; not an Exception, as SIGKILL is none."""


@pytest.fixture(autouse=True)
def _owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OWED", str(tmp_path / "owed"))


def stack(folder: Path, content: bytes = b"1\n") -> list[Step]:
    """A configuration, and a service that counts its restarts and runs with the configuration it last read."""
    config = File(str(folder / "config"), content, *owner_of_new_files())
    command = f"cp {folder}/config {folder}/running; echo restart >>{folder}/restarts"
    service = Command("service", argv("test", "-e", str(folder / "running")), command, watches=[config])
    return [config, service]


def test_a_second_run_changes_nothing_in_one_round_trip(tmp_path: Path) -> None:
    assert [c.step.title for c in converge(LocalHost(), stack(tmp_path), SilentProgress())] == [
        f"file {tmp_path}/config", "service"]
    host = LocalHost()
    assert converge(host, stack(tmp_path), SilentProgress()) == []
    assert (host.batches, host.ran) == (1, [])


def test_a_change_reaches_what_watches_it(tmp_path: Path) -> None:
    converge(LocalHost(), stack(tmp_path), SilentProgress())
    changes = converge(LocalHost(), stack(tmp_path, b"2\n"), SilentProgress())
    assert str(changes[1]) == f"service: because of file {tmp_path}/config"
    assert (tmp_path / "running").read_bytes() == b"2\n"
    assert (tmp_path / "restarts").read_text() == "restart\n" * 2


def test_looking_changes_nothing(tmp_path: Path) -> None:
    assert len(survey(LocalHost(), stack(tmp_path))) == 2
    assert list(tmp_path.iterdir()) == []


def test_killed_at_every_command_the_next_run_finishes(tmp_path: Path) -> None:
    point, ended = 0, False
    while not ended:
        folder = tmp_path / str(point)
        folder.mkdir()
        converge(LocalHost(), stack(folder), SilentProgress())
        count = iter(range(point + 1))

        def kill(command: str, count=count) -> None:  # type: ignore[no-untyped-def]
            if next(count, None) is None:
                raise Killed

        try:
            converge(LocalHost(before=kill), stack(folder, b"2\n"), SilentProgress())
            ended = True
        except Killed:
            converge(LocalHost(), stack(folder, b"2\n"), SilentProgress())
        assert (folder / "running").read_bytes() == b"2\n", f"killed before command {point + 1}"
        assert survey(LocalHost(), stack(folder, b"2\n")) == []
        point += 1
    assert point > 3, "the walk must have met every boundary"


def test_a_step_that_does_not_take_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HomelabError, match="did not take"):
        converge(LocalHost(), [Command("useless", "false", "true")], SilentProgress())


def test_a_step_that_fails_stops_what_comes_after(tmp_path: Path) -> None:
    later = File(str(tmp_path / "later"), b"", *owner_of_new_files())
    with pytest.raises(HomelabError) as error:
        converge(LocalHost(), [Command("c", "false", "echo why >&2; exit 3"), later], SilentProgress())
    assert "status 3" in str(error.value)
    assert "why" in str(error.value)
    assert not (tmp_path / "later").exists()
