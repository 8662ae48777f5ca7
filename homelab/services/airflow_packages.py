"""Packages of the user in Airflow's venv: locked with hashes next to the inventory; Airflow's own keep its versions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.paths import bundled_path

LOCK_FILE = "airflow-packages.txt"
_VERSION = r"(?:===?|>=|<=|~=|!=|<|>)\s*[A-Za-z0-9.*+!_-]+"
REQUIREMENT = rf"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?\s*({_VERSION}(\s*,\s*{_VERSION})*)?"
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==\s*([A-Za-z0-9.+!_-]+)")
_ENTRY = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def lock_name(series: str, executor: str) -> str:
    """Return the name of the lock of a series of Airflow; Celery has a lock with its packages."""
    return f"{series}-celery" if executor == "celery" else series


def airflow_lock(series: str) -> Path:
    """Return homelab's own lock file of a series of Airflow."""
    return bundled_path("pipelines/shared/requirements") / f"airflow-{series}.txt"


def venv_lock(series: str, packages: Sequence[str], folder: Path) -> bytes:
    """Return the lock of Airflow's venv: homelab's, and the user's in `folder`.

    Raises InputError if the user's is missing, or was made for other packages or another Airflow.
    """
    own = airflow_lock(series).read_bytes()
    if not packages:
        return own
    path = folder / LOCK_FILE
    text = path.read_text() if path.exists() else ""
    if not text.startswith(header(series, packages)):
        raise InputError(
            f"Cannot install Airflow's further packages: {LOCK_FILE} does not lock them",
            f"{path} {'was made for other packages, or for another Airflow' if text else 'does not exist'}.",
            "Run `homelab airflow lock`.",
        )
    return own + text.encode()


def header(series: str, packages: Sequence[str]) -> str:
    """Return the first lines of a lock: the packages, and the Airflow that they were locked for."""
    digest = hashlib.sha256(airflow_lock(series).read_bytes()).hexdigest()[:16]
    return (
        f"# Locked by `homelab airflow lock`: do not edit.\n# Airflow {series}, {digest}\n"
        f"# Packages: {' '.join(sorted(''.join(each.split()) for each in packages))}\n"
    )


def user_lock(series: str, packages: Sequence[str], compiled: str) -> str:
    """Return the text of a lock from uv's: without the entries that Airflow's lock has.

    A package that Airflow needs only on other versions of Python has another marker, so its entry stays.
    """
    own = {line for line in airflow_lock(series).read_text().splitlines() if _ENTRY.match(line)}
    entries = [each for each in re.split(r"(?m)^(?=[A-Za-z0-9])", compiled) if _ENTRY.match(each)]
    return header(series, packages) + "".join(each for each in entries if each.partition("\n")[0] not in own)


def pin_errors(series: str, packages: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the packages that are pinned to another version than that of Airflow, by index, each with the error."""
    if not packages:
        return
    own = _versions(airflow_lock(series).read_text())
    for index, each in enumerate(packages):
        pin = _PIN.fullmatch(each)
        versions = own.get(_normal(pin[1])) if pin else None
        if pin and versions and pin[2] not in versions:
            yield index, f"Airflow {series} needs {pin[1]} {' or '.join(versions)}, not {pin[2]}: remove it"


def _versions(lock: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in map(_ENTRY.match, lock.splitlines()):
        if entry:
            found.setdefault(_normal(entry[1]), []).append(entry[2])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
