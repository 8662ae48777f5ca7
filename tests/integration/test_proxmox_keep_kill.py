"""`kill -9` at every API call of `snapshot`, `backup` and `restore`: the next run finishes the job."""

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


def nothing(_: Scene) -> None:
    """It is there, and runs."""


def snapshot(place: Scene) -> None:
    """It has a snapshot, and has changed since."""
    place.succeeds("snapshot create", *ONE)
    place.pve.ct(167).config["memory"] = 512


def lost(place: Scene) -> None:
    """It is gone; its backup is there."""
    place.succeeds("backup", *ONE)
    place.succeeds("destroy", *ONE)


def one_snapshot(place: Scene) -> None:
    """It was taken once, and is whole."""
    assert [list(ct.snapshots) for ct in place.pve.cts] == [["a1"]]
    assert "snapstate" not in place.pve.ct(167).snapshots["a1"]
    assert place.did()["vzsnapshot", "167", "OK"] == 1


def as_before(place: Scene) -> None:
    """It is as it was when the snapshot was taken."""
    assert place.pve.ct(167).config["memory"] == 2048


def one_backup(place: Scene) -> None:
    """One backup is left, and it is whole."""
    (volume,) = [name for name in place.pve.storages["local"]["volumes"] if name.startswith("backup/")]
    assert volume in place.pve._archived


def restored(place: Scene) -> None:
    """It was restored once, and is known by its key."""
    assert place.did()["vzrestore", "167", "OK"] == 1
    assert place.pins.pins()[ONE[0]].fingerprint == place.pve.keys[167]


def killed_everywhere(
    place: Scene, verb: str, begin: Callable[[Scene], None], check: Callable[[Scene], None], acts: bool
) -> int:
    """Kill a run at its first call, its second…; each time the next run finishes the job. How many calls it has."""
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
    raise AssertionError("it never ended by itself")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("verb", "begin", "check", "calls"),
    [
        ("snapshot create", nothing, one_snapshot, 6),
        ("snapshot rollback", snapshot, as_before, 8),
        ("backup", nothing, one_backup, 9),
        ("restore", lost, restored, 12),
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
            return killed_everywhere(place, verb, begin, check, acts)

    with ThreadPoolExecutor(2) as both:
        assert min(both.map(act, (False, True))) > calls
