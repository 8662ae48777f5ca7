"""`kill -9` at every API call of `snapshot`, `backup` and `restore`: the next run completes the work."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_proxmox_kill import ONE, Scene, scene
from tests.integration.test_proxmox_up import pair as pair


def running(_: Scene) -> None:
    """Keep the running container."""


def snapshot(place: Scene) -> None:
    """Take a snapshot, then change the container."""
    place.succeeds("snapshot create", *ONE)
    place.pve.ct(167).config["memory"] = 512


def destroyed(place: Scene) -> None:
    """Back the container up, then destroy it."""
    place.succeeds("backup", *ONE)
    place.succeeds("destroy", *ONE)


def assert_one_snapshot(place: Scene) -> None:
    """Check that one complete snapshot was taken."""
    assert [list(ct.snapshots) for ct in place.pve.cts] == [["a1"]]
    assert "snapstate" not in place.pve.ct(167).snapshots["a1"]
    assert place.did()["vzsnapshot", "167", "OK"] == 1


def assert_rolled_back(place: Scene) -> None:
    """Check that the container has the state of the snapshot."""
    assert place.pve.ct(167).config["memory"] == 2048


def assert_one_backup(place: Scene) -> None:
    """Check that there is one complete backup."""
    (volume,) = [name for name in place.pve.storages["local"]["volumes"] if name.startswith("backup/")]
    assert volume in place.pve._archived


def assert_restored(place: Scene) -> None:
    """Check that the container was restored once, with its pinned key."""
    assert place.did()["vzrestore", "167", "OK"] == 1
    assert place.pins.pins()[ONE[0]].fingerprint == place.pve.keys[167]


def kill_at_every_call(
    place: Scene, verb: str, begin: Callable[[Scene], None], check: Callable[[Scene], None], acts: bool
) -> int:
    """Kill a run at each of its calls in turn; each time the next run completes the work. Return the call count."""
    place.succeeds("up", *ONE)
    begin(place)
    pve, pins = place.pve, place.pins.pins()
    stage: tuple[Any, ...] = copy.deepcopy((pve.cts, pve.keys, pve.storages["local"]["volumes"], pve._archived))
    for number in range(1, 100):
        pve.cts, pve.keys, pve.storages["local"]["volumes"], pve._archived = copy.deepcopy(stage)
        for name in place.pins.pins():
            place.pins.forget(name)
        for name, pin in pins.items():
            place.pins.pin(name, pin)
        pve.tasklog.clear()
        ended = place.run(verb, *ONE, deadly=number, acts=acts)
        assert ended.status == (-signal.SIGKILL if pve.hit else 0), (number, pve.hit, ended)
        if not pve.hit:
            return number
        at = pve.hit
        place.succeeds(verb, *ONE)
        try:
            check(place)
            assert [(ct.status, ct.lock) for ct in pve.cts] == [("running", None)]
        except AssertionError as error:
            raise AssertionError(f"killed at call {number}, {at}, which {'was' if acts else 'was not'} done") from error
    raise AssertionError("no run completed")


@pytest.mark.parametrize(
    ("verb", "begin", "check", "calls"),
    [
        ("snapshot create", running, assert_one_snapshot, 6),
        ("snapshot rollback", snapshot, assert_rolled_back, 8),
        ("backup", running, assert_one_backup, 9),
        ("restore", destroyed, assert_restored, 10),
    ],
)
def test_killed_at_every_call(
    verb: str,
    begin: Callable[[Scene], None],
    check: Callable[[Scene], None],
    calls: int,
    tmp_path: Path,
    pair: tuple[tuple[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)

    def act(acts: bool) -> int:
        with scene(tmp_path / f"{'after' if acts else 'before'}", pair) as place:
            return kill_at_every_call(place, verb, begin, check, acts)

    with ThreadPoolExecutor(2) as both:
        assert min(both.map(act, (False, True))) > calls
