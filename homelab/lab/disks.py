"""Disks with the size of the inventory: an ext4 image for each container on the storage `local-ext4`.

As on a directory storage of Proxmox, the image is mounted as the container's root. On the lab's other storages, the
root is a plain folder, and only the space of this machine limits it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from homelab.lab.command import attempt, run
from homelab.lab.subids import FIRST

STORAGE = "local-ext4"
_SIZE = re.compile(rf"{STORAGE}:(?:(\d+(?:\.\d+)?)$|.*\bsize=(\d+(?:\.\d+)?)([MGT])\b)")
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def disk_size(rootfs: object) -> int:
    """Return the bytes of a `rootfs` on this storage, new (`local-ext4:8`) or existing; 0 on another storage."""
    found = _SIZE.match(str(rootfs))
    if found is None:
        return 0
    return round(float(found[1]) * _UNITS["G"] if found[1] else float(found[2]) * _UNITS[found[3]])


def make_disk(root: Path, size: int) -> None:
    """Make an image of `size` bytes and mount it at the empty folder `root`. Raises HomelabError."""
    image = _image(root)
    image.touch(mode=0o600)
    os.truncate(image, size)
    run(["mkfs.ext4", "-q", "-F", "-E", f"root_owner={FIRST}:{FIRST}", image])
    attach(root)
    os.chown(root / "lost+found", FIRST, FIRST)  # e2fsck needs it


def attach(root: Path) -> None:
    """Mount a container's image before a start, if it has one, after a growth that was not possible while it ran."""
    if not _image(root).exists():
        return
    if _grows(root).exists():
        _grow_unmounted(root)
    if not root.is_mount():
        run(["mount", "-o", "loop", _image(root), root])


def detach(root: Path) -> None:
    """Unmount a stopped container's image, if it is mounted."""
    if root.is_mount():
        run(["umount", root])


def grow_disk(root: Path, size: int, *, running: bool) -> str:
    """Enlarge the image and its file system; return the message of `resize2fs` if it fails while the container runs.

    Then the next start enlarges the file system. Raises HomelabError.
    """
    os.truncate(_image(root), size)
    _grows(root).touch()
    if not running:
        _grow_unmounted(root)
        attach(root)
        return ""
    device = run(["losetup", "--noheadings", "--output=NAME", "--associated", _image(root)]).strip()
    run(["losetup", "--set-capacity", device])
    done = attempt(["resize2fs", device])
    if done.returncode:
        return done.stderr.decode(errors="replace").strip()
    _grows(root).unlink()
    return ""


def _grow_unmounted(root: Path) -> None:
    detach(root)
    run(["e2fsck", "-f", "-p", _image(root)])
    run(["resize2fs", _image(root)])
    _grows(root).unlink()


def _image(root: Path) -> Path:
    return root.with_name("disk.raw")


def _grows(root: Path) -> Path:
    return root.with_name("grow-at-start")
