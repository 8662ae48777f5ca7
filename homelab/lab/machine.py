"""What the labs need of this machine, and what they changed on it, so that the last one can put it back."""

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
from homelab.private_files import write_private
from homelab.progress import Progress

_RECORD = STATE_ROOT / "machine.json"
_PROGRAMS = {
    "lxc-start": "lxc",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "ip": "iproute2",
    "nft": "nftables",
    "zstd": "zstd",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
}
CGROUPS = Path("/sys/fs/cgroup")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that this machine does not have, and the apt package that brings it, if one does."""

    sentence: str
    package: str = ""


def missing_requirements() -> Iterator[Lack]:
    """All that stands in the way of a lab on this machine."""
    if os.geteuid() != 0:
        yield Lack("not root: the lab makes a bridge and containers")
    if not Path("/proc/self/ns/user").exists():
        yield Lack("this kernel has no user namespaces")
    for program, package in _PROGRAMS.items():
        if not shutil.which(program):
            yield Lack(f"{program} is not installed", package)
    if not _KEYRING.exists():
        yield Lack("Debian's archive keyring is not installed", "debian-archive-keyring")
    if "cgroup" not in {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()} and not v2():
        yield Lack("no cgroups are mounted under /sys/fs/cgroup")
    for module in ("fakepve", "aiohttp"):
        if importlib.util.find_spec(module) is None:
            yield Lack(f"the Python package {module} is not installed: pip install 'homelab-data-stack[lab]'")


def v2() -> bool:
    """Whether this machine has the unified cgroup hierarchy only, as systemd mounts it today."""
    return (CGROUPS / "cgroup.controllers").exists()


def missing() -> list[str]:
    """What this machine lacks for a lab, a sentence each; empty if it can run one."""
    return [lack.sentence for lack in missing_requirements()]


def require() -> None:
    """Raises HomelabError that names all that is missing, and the apt command that mends it."""
    if found := list(missing_requirements()):
        raise refusal(found)


def refusal(found: Sequence[Lack]) -> HomelabError:
    """The error that names all that is missing."""
    packages = sorted({lack.package for lack in found if lack.package})
    mend = f"As root: apt-get install {' '.join(packages)}" if packages else "See to these, then run it again as root."
    return HomelabError("This machine cannot run a lab", "\n".join(f"- {lack.sentence}" for lack in found), mend)


def require_root() -> None:
    """Raises HomelabError for anybody else."""
    if os.geteuid() != 0:
        raise HomelabError(
            "Only root can look into a lab or remove it",
            "Its files are readable by root only.",
            "Run this again as root.",
        )


@contextmanager
def exclusive(progress: Progress) -> Iterator[None]:
    """One `lab up` or `lab down` at a time on this machine."""
    # A lock on a directory that is always there leaves no lock file behind.
    handle = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note("lab", "another `homelab lab` command is running; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass
class Changes:
    """What was changed on this machine for the labs."""

    guard: bool = False
    forwarding: str | None = None  # the value that stood before
    subid_files: list[str] = field(default_factory=list)
    pivot: bool = False  # LXC's cgroup `lxc.pivot`, which it never removes

    @classmethod
    def load(cls) -> Changes:
        """What is recorded; nothing if there is no record."""
        try:
            return cls(**json.loads(_RECORD.read_text()))
        except FileNotFoundError:
            return cls()

    def save(self) -> None:
        """Write the record down, or remove it when there is nothing to say."""
        if self == Changes():
            _RECORD.unlink(missing_ok=True)
        else:
            make_folder(STATE_ROOT)
            write_private(_RECORD, json.dumps(asdict(self)).encode())


def make_folder(folder: Path) -> None:
    """A folder of the labs'. A container's root has to get through it to its own files, and no further."""
    for level in (STATE_ROOT, folder):
        level.mkdir(exist_ok=True)
        level.chmod(0o711)


def unmount_below(folder: Path) -> None:
    """Unmount whatever is mounted below a folder, deepest first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if Path(point).is_relative_to(folder)), reverse=True):
        run(["umount", "--lazy", point])


def prepare() -> None:
    """Guard route, id mapping and IP forwarding. Each change is written down before it is made."""
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
    forwarding = network.FORWARDING.read_text().strip()
    if forwarding != "1":
        changes.forwarding = forwarding
        changes.save()
        network.FORWARDING.write_text("1\n")


def restore(*, guard_too: bool) -> bool:
    """Put back what `prepare` changed, once no lab is left; returns whether the guard route stays."""
    changes = Changes.load()
    if changes.forwarding is not None:
        network.FORWARDING.write_text(changes.forwarding + "\n")
        changes.forwarding = None
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
        # Somebody else's LXC may use it by now; then it is theirs.
        with contextlib.suppress(OSError):
            folder.rmdir()
