"""Full disks in the containers, which cause errors that do not name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Container
from homelab.runtime.concurrency import run_all
from homelab.runtime.session import Session

_FULL = 98  # percent of a file system
PROBE = f"df -P -x tmpfs -x devtmpfs 2>/dev/null | awk 'NR > 1 && $5 + 0 >= {_FULL} {{ print $6, $5 }}' | sort -u"


# A run writes a few kilobytes; a large disk that is 99 % full may still have room for years.
_NO_SPACE = "df -P -k -x tmpfs -x devtmpfs 2>/dev/null | awk 'NR > 1 && $4 < 1024 { print $6, $5 }' | sort -u"


def full_disks(answer: Result) -> list[str]:
    """Return the full file systems in the answer to the probe, such as `/ 100%`."""
    return answer.text.splitlines()


def describe(container: str, disks: Sequence[str]) -> str:
    """Return the error text for the full file systems of a container, with the way out."""
    return (
        f"the disk of {container} is full ({', '.join(disks)}): give it a larger `disk` in the inventory and run "
        f"`homelab up`, or remove files there"
    )


def explain_by_full_disk(session: Session, error: HomelabError) -> HomelabError:
    """Return the error that names a full disk if a container has one, else the given error."""
    full = _find(session, PROBE)
    return _error(error.brief.partition(":")[0], full, str(error)) if full else error


def require_space(session: Session, action: str) -> None:
    """Raise HomelabError if a container's disk has no space left: Airflow would fail, and retry for minutes."""
    if full := _find(session, _NO_SPACE):
        raise _error(f"Cannot {action}", full)


def _error(brief: str, full: Mapping[str, Sequence[str]], details: str = "") -> HomelabError:
    lines = [describe(name, disks) for name, disks in full.items()]
    return HomelabError(
        f"{brief}: the disk of {' and '.join(full)} is full",
        "\n".join([*lines, *([details] if details else [])]),
        "Free some space, then run the same command again. It also stores the observations in the spool.",
    )


def _find(session: Session, probe: str) -> dict[str, list[str]]:
    """Return the full file systems of the containers that have any."""
    found = run_all({c.name: partial(_disks_of, session, c, probe) for c in session.inventory.containers})
    return {name: disks for name, job in found.items() if (disks := job.result())}


def _disks_of(session: Session, container: Container, probe: str) -> list[str]:
    try:
        with session.connect(container, 3.0) as host:
            return full_disks(host.run(probe, timeout=20))
    except HomelabError:
        return []
