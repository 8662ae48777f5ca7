"""Managed resources that are no longer wanted are removed, and nothing else, wherever the run is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.model import ManagedResource, Step
from homelab.progress import SilentProgress
from homelab.steps import Command, Directory, File, Tree, Venv, remote_paths
from homelab.steps import manifest as m
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import LocalHost, killed_before_each_command, owner_of_new_files
from tests.unit.test_converge import Killed


def owned(*lines: str) -> frozenset[ManagedResource]:
    return frozenset(ManagedResource(*line.split(" ", 1)) for line in lines)


ORPHANED = [
    (["file /a/b"], ["file /a/b"], []),
    (
        ["file /a/b", "unit x.service", "directory /a", "tree /a/t"],
        [],
        ["unit x.service", "file /a/b", "tree /a/t", "directory /a"],
    ),
    (
        ["directory /a", "directory /a/b", "directory /a/b/c"],
        [],
        ["directory /a/b/c", "directory /a/b", "directory /a"],
    ),
    # An old file that is now in a tree, and an old tree with a file that is still wanted.
    (["file /a/t/x"], ["tree /a/t"], []),
    (["tree /a/t"], ["file /a/t/x"], []),
    (["tree /a/t"], ["file /a/tx"], ["tree /a/t"]),
    (["venv /a/v"], ["tree /a/v"], []),
    (["unit x.service"], ["file /etc/systemd/system/x.service"], ["unit x.service"]),
]


@pytest.mark.parametrize(("ours", "wanted", "expected"), ORPHANED)
def test_orphaned_resources_in_removal_order(ours: list[str], wanted: list[str], expected: list[str]) -> None:
    assert [str(each) for each in m.orphaned(owned(*ours), owned(*wanted))] == expected


def test_manifest_reads_as_it_was_written() -> None:
    ours = owned("file /a/it's a file", "unit x@1.service", "tree /opt/x/y")
    assert m.parse(m.text(ours).decode()) == ours


@pytest.mark.parametrize(
    "line",
    [
        "file /",
        "tree /etc",
        "tree /etc/../usr",
        "file etc/x",
        "tree //etc/x",
        "unit x.service; reboot",
        "unit ../x.service",
        "database /a/b",
        "file",
        "",
        "tree /a/b/",
    ],
)
def test_line_that_homelab_would_not_write_is_ignored(line: str) -> None:
    assert m.parse(line + "\n") == frozenset()


def before(folder: Path) -> list[Step]:
    """Return steps for a directory with a file, a tree, the result of a command, and a file that stays."""
    owner = owner_of_new_files()
    return [
        Directory(str(folder / "d"), *owner),
        Directory(str(folder / "e"), *owner),
        File(str(folder / "d" / "f"), b"1", *owner),
        Tree(str(folder / "t"), {"a/b": b"2"}),
        Command("c", f"test -e {folder}/c", f"touch {folder}/c", makes=[ManagedResource("made", str(folder / "c"))]),
        File(str(folder / "stays"), b"3", *owner),
    ]


def after(folder: Path) -> list[Step]:
    return [File(str(folder / "stays"), b"3", *owner_of_new_files())]


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_orphaned_resources_are_shown_then_removed_and_foreign_data_stays(tmp_path: Path) -> None:
    converge(LocalHost(), before(tmp_path), SilentProgress())
    (tmp_path / "e" / "data").write_text("foreign")
    (tmp_path / "other").write_text("not ours")
    (tmp_path / "d" / "f").write_text("changed by hand")
    (tmp_path / "t" / "mine").write_text("added by hand")
    shown = [str(change) for change in pending_changes(LocalHost(), after(tmp_path))]
    kept_in = remote_paths.replaced(f"{tmp_path}/d/f")
    assert shown[0] == f"remove file {tmp_path}/d/f: no longer in the inventory; changes by hand are kept in {kept_in}"
    assert len(shown) == 5
    assert len(converge(LocalHost(), after(tmp_path), SilentProgress())) == 5
    assert left(tmp_path) == ["e", "e/data", "other", "stays"]
    (kept,) = Path(remote_paths.replaced(f"{tmp_path}/d/f")).iterdir()
    assert kept.read_text() == "changed by hand"
    (kept,) = Path(remote_paths.replaced(f"{tmp_path}/t")).iterdir()
    assert sorted(each.name for each in kept.iterdir()) == ["a", "mine"]
    host = LocalHost()
    assert converge(host, after(tmp_path), SilentProgress()) == []
    assert (host.batches, host.ran) == (1, [])


def test_removed_resource_is_not_removed_again_after_a_failure(tmp_path: Path) -> None:
    converge(LocalHost(), before(tmp_path), SilentProgress())
    steps = [*after(tmp_path), Command("bad", "false", "exit 1")]
    with pytest.raises(HomelabError):
        converge(LocalHost(), steps, SilentProgress())
    assert [str(change) for change in pending_changes(LocalHost(), steps)] == ["bad: not done yet"]


@pytest.mark.slow
def test_no_managed_resource_is_lost_when_runs_are_killed(tmp_path: Path) -> None:
    """The first run is killed, then the inventory changes: all that the first run had created is removed."""

    def run(host: LocalHost) -> None:
        converge(host, before(tmp_path), SilentProgress())

    done = 0
    for done in killed_before_each_command(run, tmp_path, Path(remote_paths.STATE)):
        commands = iter(range(done // 3))

        def kill(command: str, commands=commands) -> None:  # type: ignore[no-untyped-def]
            if next(commands, None) is None:
                raise Killed

        with contextlib.suppress(Killed):
            converge(LocalHost(before=kill), after(tmp_path), SilentProgress())
        converge(LocalHost(), after(tmp_path), SilentProgress())
        assert left(tmp_path) == ["stays"], f"killed before command {done + 1}"
        assert m.parse(Path(remote_paths.manifest()).read_text()) == owned(f"file {tmp_path}/stays")
    assert done > 7, "the walk must have met every boundary"


SYSTEMCTL = """#!/bin/sh
echo "$*" >>{log}
case "$1" in cat) {cat} ;; is-active) exit 3 ;; esac
"""


@pytest.mark.parametrize(
    ("there", "calls"),
    [
        (
            True,
            [
                "cat x.service",
                "stop x.service",
                "disable --quiet x.service",
                "cat x.service",
                "mask --quiet x.service",
                "daemon-reload",
                "reset-failed x.service",
            ],
        ),
        (False, ["cat x.service", "cat x.service", "daemon-reload", "reset-failed x.service"]),
    ],
)
def test_unit_is_stopped_and_a_unit_of_a_package_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, calls: list[str]
) -> None:
    log = tmp_path / "log"
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(log=log, cat="exit 0" if there else "exit 1"))
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    step = m.RemoveResource(ManagedResource("unit", "x.service"))
    step.apply(LocalHost())
    assert log.read_text().splitlines() == calls
    assert step.check(LocalHost().batch(step.probes())) is None


def test_venv_is_removed_with_all_its_folders(tmp_path: Path) -> None:
    for name in ("v-3.11.2-aa", "v-3.11.2-bb"):
        (tmp_path / name).mkdir()
    (tmp_path / "v").symlink_to("v-3.11.2-aa")
    (tmp_path / "vx").mkdir()
    (removal,) = (m.RemoveResource(each) for each in Venv(str(tmp_path / "v"), b"").managed_resources())
    removal.apply(LocalHost())
    assert left(tmp_path) == ["vx"]
