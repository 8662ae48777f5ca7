"""The images behind the lab's storage `local-ext4`, without containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.lab import disks
from homelab.lab.subids import FIRST

MIB = 2**20
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="a file system of its own needs root and loop"
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Return the root of a container with an image of 64 MiB."""
    path = tmp_path / "101" / "rootfs"
    path.mkdir(parents=True)
    disks.make_disk(path, 64 * MIB)
    try:
        yield path
    finally:
        disks.detach(path)


def size(root: Path) -> int:
    """Return the mebibytes of the root's file system."""
    found = os.statvfs(root)
    return found.f_blocks * found.f_frsize // MIB


def test_root_belongs_to_the_container_and_has_the_size(root: Path) -> None:
    assert root.is_mount()
    assert {path.stat().st_uid for path in (root, *root.iterdir())} == {FIRST}
    assert 40 < size(root) <= 64
    with pytest.raises(OSError, match="No space left on device"):
        (root / "large").write_bytes(b"x" * 65 * MIB)


def test_image_is_mounted_again_after_a_reboot_with_its_files(root: Path) -> None:
    (root / "file").write_text("kept")
    disks.detach(root)
    assert list(root.iterdir()) == []
    disks.attach(root)
    disks.attach(root)
    assert (root / "file").read_text() == "kept"


def test_disk_of_a_stopped_container_grows(root: Path) -> None:
    (root / "file").write_text("kept")
    assert disks.grow_disk(root, 128 * MIB, running=False) == ""
    assert 90 < size(root) <= 128
    assert (root / "file").read_text() == "kept"


def test_disk_of_a_running_container_grows_at_the_latest_with_its_next_start(root: Path) -> None:
    """The kernel refuses it to a root without CAP_SYS_RESOURCE."""
    message = disks.grow_disk(root, 128 * MIB, running=True)
    assert ("Permission denied" in message) == (size(root) <= 64)
    disks.attach(root)
    assert 90 < size(root) <= 128


def test_root_on_another_storage_is_left_alone(tmp_path: Path) -> None:
    disks.attach(tmp_path)
    disks.detach(tmp_path)
    disks.detach(tmp_path / "missing")


@pytest.mark.parametrize(
    ("rootfs", "gibibytes"),
    [
        ("local-ext4:8", 8),
        ("local-ext4:0.5", 0.5),
        ("local-ext4:101/vm-101-disk-0.raw,size=512M", 0.5),
        ("local-ext4:101/vm-101-disk-0.raw,quota=1,size=8G", 8),
        ("local-ext4:101/vm-101-disk-0.raw,size=1T", 1024),
        ("local:8", 0),
        ("local-btrfs:101/vm-101-disk-0.raw,size=8G", 0),
        ("", 0),
    ],
)
def test_size_is_that_of_the_rootfs(rootfs: str, gibibytes: float) -> None:
    assert disks.disk_size(rootfs) == gibibytes * 2**30
