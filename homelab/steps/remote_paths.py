"""The paths of homelab's own notes in a container. They are functions, so that tests can move STATE and RUN."""

from __future__ import annotations

STATE = "/var/lib/homelab"  # survives a reboot: markers, manifest, copies of replaced files
RUN = "/run/homelab"  # does not survive a reboot: the lock and the current command


def markers() -> str:
    """Return the folder of the markers: one for each step that still has to act."""
    return f"{STATE}/markers"


def lock() -> str:
    """Return the file that is locked while one of our commands changes something."""
    return f"{RUN}/lock"


def manifest() -> str:
    """Return the file that lists the resources that homelab manages in this container."""
    return f"{STATE}/manifest"


def written(path: str) -> str:
    """Return the file with the hash of the content that homelab last wrote to `path`; other content is not ours."""
    return f"{STATE}/written{path}"


def original(path: str) -> str:
    """Return the copy of a file of the distribution, kept until it is restored."""
    return f"{STATE}/original{path}"


def replaced(path: str) -> str:
    """Return the folder with copies of foreign content that was replaced at `path`, named by time."""
    return f"{STATE}/replaced{path}"
