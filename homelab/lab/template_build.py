"""The container templates: Debian built by mmdebstrap once and cached under the hash of its recipe."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.distributions import DISTRIBUTIONS
from homelab.errors import HomelabError
from homelab.lab.command import attempt, run


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release: its alias in the inventory, and its suite."""

    alias: str
    suite: str


RELEASES = tuple(Release(each.alias, each.codename) for each in DISTRIBUTIONS.values() if each.family == "debian")
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "ifupdown",
    "isc-dhcp-client",
    "iproute2",
    "netbase",
    "procps",
    "openssh-server",
    "ca-certificates",
)
# Units that are useless or fail in an unprivileged container.
MASKED = (
    "systemd-firstboot.service",
    "systemd-udevd.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-modules-load.service",
)
# Files that are not read in a container. They are a third of all files; without them, unpacking and installing take a
# third less time.
UNREAD = (
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
HOST_CAS = Path("/usr/local/share/ca-certificates")
# The containers' apt reaches the mirrors only with these options of the host's apt.
_APT_OPTIONS = re.compile(r'^Acquire::(?:https?::Proxy|Check-Valid-Until|Check-Date) ".+";$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The inputs of a template."""

    release: Release
    sources: tuple[str, ...]
    options: tuple[str, ...]
    certificates: tuple[tuple[str, bytes], ...]

    def digest(self) -> str:
        """Return a hash that names the template: the same recipe builds the same template."""
        return hashlib.sha256(repr((self, PACKAGES, MASKED, UNREAD, _HOOK)).encode()).hexdigest()[:16]


# Runs on the host with the new root in $1. SSH host keys are removed, because each container generates its own.
_HOOK = r"""
set -e
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/var/lib/dbus/machine-id
: >"$1"/etc/machine-id
chroot "$1" systemctl mask --quiet MASKED
if ls CERTIFICATES/*.crt >/dev/null 2>&1; then
    cp CERTIFICATES/*.crt "$1"/usr/local/share/ca-certificates/
    chroot "$1" update-ca-certificates >/dev/null
fi
"""


def recipe(release: Release) -> Recipe:
    """Return the recipe on this machine, with its mirrors (if it runs Debian itself), apt options and extra CAs."""
    options = _APT_OPTIONS.findall(run(["apt-config", "dump", "Acquire"]))
    return Recipe(
        release=release,
        sources=tuple(host_sources(Path("/etc/apt"), release)),
        options=tuple(sorted(options)),
        certificates=tuple((file.name, file.read_bytes()) for file in sorted(HOST_CAS.glob("*.crt"))),
    )


def host_sources(apt: Path, release: Release) -> Iterator[str]:
    """Yield a release's one-line sources on the host's mirrors; none if the host runs no supported release."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    lines = [line for file in files if file.is_file() for line in source_lines(file.name, file.read_text())]
    suites = {line.split()[2] for line in lines}
    if own := next((known.suite for known in RELEASES if known.suite in suites), None):
        for _, uri, suite, component in map(str.split, lines):
            if suite.startswith(own):
                yield f"deb {uri} {suite.replace(own, release.suite)} {component}"


def source_lines(name: str, text: str) -> Iterator[str]:
    """Yield `deb URI SUITE main` for each source of a supported release, from either of apt's formats."""
    if name.endswith(".sources"):
        for stanza in re.split(r"\n\s*\n", text):
            fields = {
                key.lower(): value.split()
                for key, value in re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, re.MULTILINE)
            }
            if "deb" in fields.get("types", []) and "no" not in fields.get("enabled", []):
                yield from (
                    f"deb {uri} {suite} main"
                    for uri in fields.get("uris", [])
                    for suite in fields.get("suites", [])
                    if _ours(suite, fields.get("components", []))
                )
    elif name.endswith(".list"):
        for found in re.finditer(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)$", text, re.MULTILINE):
            if _ours(found[2], found[3].split()):
                yield f"deb {found[1]} {found[2]} main"


def _ours(suite: str, components: Sequence[str]) -> bool:
    known = (f"{release.suite}{part}" for release in RELEASES for part in ("", "-updates", "-security"))
    return suite in known and "main" in components


def cached(cache: Path, made: Recipe) -> Path | None:
    """Return the cached template of a recipe, or None."""
    return next((cache / "templates" / made.digest()).glob("*.tar.zst"), None)


def newest(cache: Path) -> Path | None:
    """Return the newest cached template of any recipe, or None."""
    return max((cache / "templates").glob("*/*.tar.zst"), key=lambda file: file.stat().st_mtime, default=None)


def build(cache: Path, made: Recipe) -> Path:
    """Build a template and move it into the cache atomically. Takes a minute. Raises HomelabError."""
    folder = cache / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    clean(cache)
    work = Path(tempfile.mkdtemp(dir=folder, prefix=".build-"))
    work.chmod(0o755)
    try:
        ready = work / "ready"
        ready.mkdir()
        _debootstrap(made, work, ready / file_name(made.release))
        final = folder / made.digest()
        shutil.rmtree(final, ignore_errors=True)
        ready.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    template = cached(cache, made)
    if template is None:
        raise HomelabError(
            "Cannot use the container template: it was removed right after it was built",
            str(final),
            "Run the same command again.",
        )
    return template


def file_name(release: Release) -> str:
    """Return a template's file name in Proxmox's format."""
    return f"{release.alias}-standard_{version(release)}_{architecture()}.tar.zst"


def version(release: Release) -> str:
    """Return a template's version; the point release depends on the mirror and is not part of it."""
    return f"{release.alias.rpartition('-')[2]}-1"


def architecture() -> str:
    """Return Debian's name for this machine's architecture."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def clean(cache: Path) -> None:
    """Remove the leftovers of a killed build."""
    for leftover in (cache / "templates").glob(".build-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _debootstrap(made: Recipe, work: Path, target: Path) -> None:
    certificates = work / "certificates"
    certificates.mkdir()
    for name, content in made.certificates:
        (certificates / name).write_bytes(content)
    hook = work / "customize"
    hook.write_text(
        "#!/bin/sh\n" + _HOOK.replace("MASKED", " ".join(MASKED)).replace("CERTIFICATES", str(certificates))
    )
    hook.chmod(0o755)
    sources = work / "sources.list"
    sources.write_text("".join(f"{line}\n" for line in made.sources))
    done = attempt(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt={option}" for option in UNREAD),
            *(f"--aptopt={option}" for option in made.options),
            f"--customize-hook={hook}",
            made.release.suite,
            target,
            *([sources] if made.sources else []),
        ],
        timeout=900,
        env={**os.environ, "TMPDIR": str(work)},
    )
    if done.returncode:
        raise HomelabError(
            "Cannot build the container template: mmdebstrap failed",
            "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-10:]),
            "Check that apt works on this machine (`apt-get update`), then run `homelab lab up` again.",
        )
