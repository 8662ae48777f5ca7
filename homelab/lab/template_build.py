"""The container templates: Debian made by mmdebstrap, each once, and cached under the hash of its recipe."""

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
    "iproute2",
    "netbase",
    "procps",
    "openssh-server",
    "ca-certificates",
)
# Units that have nothing to do in an unprivileged container, or fail there.
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
# A third of the files, and nobody reads them in a container: unpacking and installing take a third less.
UNREAD = (
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
HOST_CAS = Path("/usr/local/share/ca-certificates")
# What the host's apt needs to reach its mirrors, the containers' apt needs too.
_APT_OPTIONS = re.compile(r'^Acquire::(?:https?::Proxy|Check-Valid-Until|Check-Date) ".+";$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a template depends on."""

    release: Release
    sources: tuple[str, ...]
    options: tuple[str, ...]
    certificates: tuple[tuple[str, bytes], ...]

    def digest(self) -> str:
        """A name for the result: the same recipe, the same template."""
        return hashlib.sha256(repr((self, PACKAGES, MASKED, UNREAD, _HOOK)).encode()).hexdigest()[:16]


# Runs on the host with the new root in $1. The host keys are made anew for each container.
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
    """The recipe on this machine: its mirrors (if it runs Debian itself), apt options and extra CAs."""
    options = _APT_OPTIONS.findall(run(["apt-config", "dump", "Acquire"]))
    return Recipe(
        release=release,
        sources=tuple(host_sources(Path("/etc/apt"), release)),
        options=tuple(sorted(options)),
        certificates=tuple((file.name, file.read_bytes()) for file in sorted(HOST_CAS.glob("*.crt"))),
    )


def host_sources(apt: Path, release: Release) -> Iterator[str]:
    """A release's one-line sources on the host's mirrors; none if the host runs no release that we know."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    lines = [line for file in files if file.is_file() for line in source_lines(file.name, file.read_text())]
    suites = {line.split()[2] for line in lines}
    if own := next((known.suite for known in RELEASES if known.suite in suites), None):
        for _, uri, suite, component in map(str.split, lines):
            if suite.startswith(own):
                yield f"deb {uri} {suite.replace(own, release.suite)} {component}"


def source_lines(name: str, text: str) -> Iterator[str]:
    """`deb URI SUITE main` for each source of a release that we know, from either format of apt's."""
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
    """The template of that recipe, if it is there."""
    return next((cache / "templates" / made.digest()).glob("*.tar.zst"), None)


def newest(cache: Path) -> Path | None:
    """The template that was made last, whatever its recipe."""
    return max((cache / "templates").glob("*/*.tar.zst"), key=lambda file: file.stat().st_mtime, default=None)


def build(cache: Path, made: Recipe) -> Path:
    """Make a template and put it into the cache in one rename. Takes a minute. Raises HomelabError."""
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
        raise HomelabError("The template is gone right after it was made", str(final))
    return template


def file_name(release: Release) -> str:
    """A name for such a template as Proxmox gives them."""
    return f"{release.alias}-standard_{version(release)}_{architecture()}.tar.zst"


def version(release: Release) -> str:
    """A template's version. Which point release it is, the mirror decides."""
    return f"{release.alias.rpartition('-')[2]}-1"


def architecture() -> str:
    """Debian's name for this machine's architecture."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def clean(cache: Path) -> None:
    """Remove what a killed build left."""
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
            "The container template could not be made",
            "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-10:]),
            "Check that apt works on this machine (`apt-get update`), then run `homelab lab up` again.",
        )
