"""Python environments from lock files with hashes, built by uv."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote

from homelab.distributions import CA_BUNDLE
from homelab.host import Host, Result, argv, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps.root_only import guarded

UV = "/opt/homelab/uv/bin/uv"
_PYTHON = "/usr/bin/python3"
# A homelab may have its own CA; by default, uv and pip trust only the CAs that they bring along.
_ENVIRONMENT = (
    f"export PIP_CERT={CA_BUNDLE} SSL_CERT_FILE={CA_BUNDLE} UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=hardlink; "
)


@dataclass(frozen=True, eq=False)
class Venv(Step):
    """A virtual environment at `path` with exactly the packages of the lock file.

    `path` is a link to a folder named after the interpreter's version and the hash of the lock. The link is
    changed only when the new folder is complete; until then, the old environment stays in use.
    """

    path: str
    lock: bytes = field(repr=False)
    triggered_by: Sequence[Step] = ()
    part: str = ""

    @property
    def title(self) -> str:
        """See Step."""
        return f"venv {self.path}"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("venv", self.path),)

    @property
    def digest(self) -> str:
        """The first 16 characters of the lock's SHA-256."""
        return hashlib.sha256(self.lock).hexdigest()[:16]

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (argv("readlink", self.path), argv(_PYTHON, "--version"), argv("test", "-x", f"{self.path}/bin/python"))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        link, version, executable = answers
        if not link.ok or not executable.ok:
            return Pending("does not exist")
        if self.digest not in link.text:
            return Pending("the lock file has changed")
        if not version.ok:
            return Pending("the interpreter is missing")
        # "Python 3.11.2" and "…-3.11.2-<digest>"
        return None if f"-{version.text.split()[-1]}-" in link.text else Pending("the interpreter has changed")

    def apply(self, host: Host) -> None:
        """See Step."""
        check(
            host,
            guarded(_ENVIRONMENT, self.path)
            + "\n".join(
                [
                    "set -eu",
                    f"version=$({_PYTHON} -c 'import platform; print(platform.python_version())')",
                    f"folder={quote(self.path)}-$version-{self.digest}",
                    'rm -rf "$folder"',  # from a killed run
                    f'{UV} venv --quiet --python {_PYTHON} "$folder"',
                    'cat >"$folder/lock.txt"',
                    f"{UV} pip sync --quiet --require-hashes --no-build --compile-bytecode "
                    '--python "$folder/bin/python" '
                    '"$folder/lock.txt"',
                    f"before=$(readlink {quote(self.path)} || true)",
                    f'ln -sfn "$folder" {quote(self.path)}.next',
                    f"mv -fT {quote(self.path)}.next {quote(self.path)}",
                    # The previous one stays until the next change, as its programs may still be running.
                    f"for old in {quote(self.path)}-*; do "
                    '[ "$old" = "$folder" ] || [ "$old" = "$before" ] || rm -rf "$old"; done',
                ]
            ),
            f"build {self.path}",
            stdin=self.lock,
            timeout=1800,
        )


@dataclass(frozen=True, eq=False)
class UvInstall(Step):
    """uv, in its own environment, from a lock file with hashes."""

    lock: bytes = field(repr=False)

    @property
    def title(self) -> str:
        """See Step."""
        return "uv"

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return (ManagedResource("tree", "/opt/homelab/uv"),)

    def probes(self) -> Sequence[str]:
        """See Step."""
        return ("cat /opt/homelab/uv/lock.sha256",)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        digest = hashlib.sha256(self.lock).hexdigest()
        return None if answers[0].text == digest else Pending("not installed, or of another version")

    def apply(self, host: Host) -> None:
        """See Step."""
        digest = hashlib.sha256(self.lock).hexdigest()
        check(
            host,
            guarded(_ENVIRONMENT, UV)
            + "\n".join(
                [
                    "set -e; rm -rf /opt/homelab/uv; mkdir -p /opt/homelab",
                    f"{_PYTHON} -m venv /opt/homelab/uv",
                    "/opt/homelab/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes "
                    "--only-binary :all: --requirement /dev/stdin",
                    f"echo {digest} >/opt/homelab/uv/lock.sha256",
                ]
            ),
            "install uv",
            stdin=self.lock,
        )
