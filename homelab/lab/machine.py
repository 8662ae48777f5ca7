"""Requirements of a lab, and the changes of this machine that the last lab's `down` reverts."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from homelab.errors import HomelabError
from homelab.lab import network, subids
from homelab.lab.command import run
from homelab.lab.settings import STATE_ROOT
from homelab.private_files import read_mapping, write_private
from homelab.progress import Progress

_RECORD = STATE_ROOT / "machine.json"
_PROGRAMS = {
    "lxc-start": "lxc",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "ip": "iproute2",
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "zstd": "zstd",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
}
CGROUPS = Path("/sys/fs/cgroup")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# All containers share one limit of inotify instances: the kernel counts them for the host's root, too. A container has
# about 8 (measured). One that boots when none is left has no network, so the kernel's default of 128 is too low.
_WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
_ENOUGH_WATCHERS = 8192


@dataclass(frozen=True, slots=True)
class MissingRequirement:
    """A requirement that this machine does not meet, and the apt package that provides it, if any."""

    sentence: str
    package: str = ""


def missing_requirements() -> Iterator[MissingRequirement]:
    """Yield the requirements of a lab that this machine does not meet."""
    if os.geteuid() != 0:
        yield MissingRequirement("not root: the lab creates a bridge and containers")
    if not Path("/proc/self/ns/user").exists():
        yield MissingRequirement("this kernel has no user namespaces")
    for program, package in _PROGRAMS.items():
        if not shutil.which(program):
            yield MissingRequirement(f"{program} is not installed", package)
    if not _KEYRING.exists():
        yield MissingRequirement("Debian's archive keyring is not installed", "debian-archive-keyring")
    if "cgroup" not in {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()} and not v2():
        yield MissingRequirement("no cgroups are mounted under /sys/fs/cgroup")
    for module in ("fakepve", "aiohttp"):
        if importlib.util.find_spec(module) is None:
            yield MissingRequirement(
                f"the Python package {module} is not installed: pip install 'homelab-data-stack[lab]'"
            )


def v2() -> bool:
    """Check that this machine has only the unified cgroup hierarchy, the current default of systemd."""
    return (CGROUPS / "cgroup.controllers").exists()


def missing() -> list[str]:
    """Return one sentence per missing requirement; empty if this machine can run a lab."""
    return [lack.sentence for lack in missing_requirements()]


def require() -> None:
    """Raise HomelabError if requirements are missing."""
    if found := list(missing_requirements()):
        raise requirements_error(found)


def requirements_error(found: Sequence[MissingRequirement]) -> HomelabError:
    """Return the error that lists the missing requirements and the apt command that installs them."""
    packages = sorted({lack.package for lack in found if lack.package})
    resolution = (
        f"As root: apt-get install {' '.join(packages)}"
        if packages
        else "Meet these requirements, then run the same command again as root."
    )
    return HomelabError(
        "Cannot run a lab on this machine: requirements are missing",
        "\n".join(f"- {lack.sentence}" for lack in found),
        resolution,
    )


def require_root() -> None:
    """Raise HomelabError if the current user is not root."""
    if os.geteuid() != 0:
        raise HomelabError(
            "Cannot inspect or remove a lab: only root may",
            "Only root can read its files.",
            "Run the same command again as root.",
        )


@contextmanager
def exclusive(progress: Progress) -> Iterator[None]:
    """Hold this machine's lock for `lab up` and `lab down`; wait if another command holds it."""
    # A lock on a directory that always exists needs no lock file.
    handle = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note("lab", "waiting for another `homelab lab` command to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass
class Changes:
    """Record of the changes that were made to this machine for the labs."""

    guard: bool = False
    forwarding: str | None = None  # the previous value
    watchers: int | None = None  # the previous limit of inotify instances
    subid_files: list[str] = field(default_factory=list)
    pivot: bool = False  # LXC's cgroup `lxc.pivot`, which it never removes

    @classmethod
    def load(cls) -> Changes:
        """Read the record; empty if there is none."""
        return cls(**read_mapping(_RECORD, "Delete it: homelab then leaves its changes of this machine as they are."))

    def save(self) -> None:
        """Write the record, or remove the file when the record is empty."""
        if self == Changes():
            _RECORD.unlink(missing_ok=True)
        else:
            make_folder(STATE_ROOT)
            write_private(_RECORD, json.dumps(asdict(self)).encode())


def make_folder(folder: Path) -> None:
    """Create a folder of the labs, which a container's root may enter, to reach its own files, but not list."""
    for level in (STATE_ROOT, folder):
        level.mkdir(exist_ok=True)
        level.chmod(0o711)


def unmount_below(folder: Path) -> None:
    """Unmount all mount points below a folder, deepest first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if Path(point).is_relative_to(folder)), reverse=True):
        run(["umount", "--lazy", point])


def prepare() -> None:
    """Set up the guard route, id mapping, the limit of inotify, and IP forwarding. Record each change before it."""
    changes = Changes.load()
    if not network.guarded():
        changes.guard = True
        changes.save()
        network.guard()
    if not all(file.exists() and subids.covers(file.read_text()) for file in subids.FILES):
        changes.subid_files = [
            str(file) for file in subids.FILES if not (file.exists() and subids.covers(file.read_text()))
        ]
        changes.save()
        subids.grant()
    if not changes.pivot and not _pivots():
        changes.pivot = True
        changes.save()
    watchers = int(_WATCHERS.read_text())
    if watchers < _ENOUGH_WATCHERS:
        changes.watchers = watchers
        changes.save()
        _WATCHERS.write_text(str(_ENOUGH_WATCHERS))
    forwarding = network.FORWARDING.read_text().strip()
    if forwarding != "1":
        changes.forwarding = forwarding
        changes.save()
    if changes.forwarding is not None:  # also when the rules of an earlier lab are missing
        network.forward_for_labs()


def restore(*, guard_too: bool) -> bool:
    """Revert the changes of `prepare` after the last lab is removed; return whether the guard route is still set."""
    changes = Changes.load()
    if changes.forwarding is not None:
        network.restore_forwarding(changes.forwarding)
        changes.forwarding = None
    if changes.watchers is not None:
        if int(_WATCHERS.read_text()) == _ENOUGH_WATCHERS:  # otherwise another program has changed it since
            _WATCHERS.write_text(str(changes.watchers))
        changes.watchers = None
    subids.revoke(changes.subid_files)
    changes.subid_files = []
    if changes.pivot:
        _remove_pivots()
        changes.pivot = False
    if guard_too and changes.guard:
        network.unguard()
        changes.guard = False
    changes.save()
    if STATE_ROOT.is_dir() and not any(file for file in STATE_ROOT.iterdir() if file.name != ".gitignore"):
        shutil.rmtree(STATE_ROOT)
    return network.guarded()


def _pivots() -> list[Path]:
    return [*CGROUPS.glob("lxc.pivot"), *CGROUPS.glob("*/lxc.pivot")]


def _remove_pivots() -> None:
    for folder in _pivots():
        # Another LXC installation may use it by now: then rmdir fails, and the cgroup stays.
        with contextlib.suppress(OSError):
            folder.rmdir()
