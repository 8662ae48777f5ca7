"""Where homelab keeps its own notes in a container. What needs them asks at the time, so that tests can move them."""

from __future__ import annotations

STATE = "/var/lib/homelab"  # survives a reboot: what is owed, what is ours
RUN = "/run/homelab"  # does not: what is going on


def owed() -> str:
    """The folder of the markers for what is still owed."""
    return f"{STATE}/owed"


def lock() -> str:
    """The file that is locked while a command of ours changes something."""
    return f"{RUN}/lock"


def manifest() -> str:
    """The file that lists what is there because of us."""
    return f"{STATE}/manifest"


def written(path: str) -> str:
    """The file that holds the hash of what we last wrote to a path: what is there and differs is not from us."""
    return f"{STATE}/written{path}"


def original(path: str) -> str:
    """The file in which what stood at a path before us is kept until it is put back there."""
    return f"{STATE}/original{path}"


def replaced(path: str) -> str:
    """The folder in which what was not from us is kept before it is replaced, by the time at which that was done."""
    return f"{STATE}/replaced{path}"
