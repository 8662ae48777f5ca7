"""What has to be so in every container, whatever runs there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from homelab.model import PackageSources, Repository, ServiceContext, Step
from homelab.render import render
from homelab.steps import (
    AptMirror,
    Archives,
    Certificate,
    Command,
    Directory,
    DpkgConfigured,
    File,
    Packages,
    PinnedPackages,
)


def base_system(context: ServiceContext) -> Sequence[Step]:
    """Nobody logs in over SSH with a password, and as root only those whom the inventory names, and homelab.

    Packages come from where the inventory says, and none is left in between.
    """
    _, operator = context.secret_store.key_pair("operator")
    keys = list(dict.fromkeys((operator.strip(), *context.container.ssh_keys)))
    # What sshd reads first counts, and Ubuntu's cloud images let passwords in by `50-cloud-init.conf`.
    settings = File(
        "/etc/ssh/sshd_config.d/00-homelab.conf", render("sshd.conf.j2"), validate='/usr/sbin/sshd -t -f "$new"'
    )
    # On Ubuntu a socket starts ssh.service, so it may not run yet.
    reloaded = Command(
        "sshd has read its settings", "true", "systemctl try-reload-or-restart ssh.service", triggered_by=[settings]
    )
    return (
        settings,
        reloaded,
        Directory("/root/.ssh", mode=0o700),
        File("/root/.ssh/authorized_keys", render("authorized_keys.j2", keys=keys), mode=0o600),
        *packages_from(context.inventory.sources),
        DpkgConfigured(),
    )


def packages_from(sources: PackageSources) -> Iterator[Step]:
    """Whom apt, pip and uv trust, and where they get packages from; nothing where the inventory says nothing."""
    if sources.apt_proxy:
        yield File("/etc/apt/apt.conf.d/90homelab", f'Acquire::http::Proxy "{sources.apt_proxy}";\n'.encode())
    if sources.certificates or any(url.startswith("https:") for url in _apt(sources)):
        yield Packages(["ca-certificates"])
    for certificate in sources.certificates:
        name = hashlib.sha256(certificate.encode()).hexdigest()[:12]
        yield Certificate(f"/usr/local/share/ca-certificates/homelab-{name}.crt", f"{certificate}\n".encode())
    if sources.apt_mirror:
        yield AptMirror(Archives(sources.apt_mirror, sources.apt_security_mirror))
    for repository in sources.repositories:
        yield from _repository(repository)
    if sources.pypi_index:
        url = urlsplit(sources.pypi_index)
        trusted = f"trusted-host = {url.hostname}\n" if url.scheme == "http" else ""  # pip asks for that, uv does not
        yield File("/etc/pip.conf", f"[global]\nindex-url = {sources.pypi_index}\n{trusted}".encode())
        yield Directory("/etc/uv")
        yield File("/etc/uv/uv.toml", f'[[index]]\nurl = "{sources.pypi_index}"\ndefault = true\n'.encode())
    if sources.pins:
        text = "\n".join(
            f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n"
            for name, version in sorted(sources.pins.items())
        )
        yield File("/etc/apt/preferences.d/homelab", text.encode())
        yield PinnedPackages(sources.pins)


def _apt(sources: PackageSources) -> Iterator[str]:
    yield from (url for url in (sources.apt_mirror, sources.apt_security_mirror) if url)
    yield from (repository.uri for repository in sources.repositories)


def _repository(repository: Repository) -> Iterator[Step]:
    """The key, which is good for this repository alone, and then the repository."""
    key = f"/usr/share/keyrings/homelab-{repository.name}.gpg"
    yield File(key, repository.key)
    fields = {
        "Types": "deb",
        "URIs": repository.uri,
        "Suites": repository.suite,
        "Components": " ".join(repository.components),
        "Signed-By": key,
    }
    yield File(
        f"/etc/apt/sources.list.d/homelab-{repository.name}.sources",
        "".join(f"{name}: {value}\n" for name, value in fields.items() if value).encode(),
    )
