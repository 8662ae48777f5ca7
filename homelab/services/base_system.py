"""The steps of every container, for all services."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from shlex import quote
from urllib.parse import urlsplit

from homelab.model import Container, PackageSources, Repository, ServiceContext, Step
from homelab.render import render
from homelab.services.lab_certificates import trusted_authority
from homelab.services.security_updates import PACKAGE, security_updates
from homelab.services.web_ports import closed_web_ports
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
    SshdSettings,
)


def base_system(context: ServiceContext) -> Sequence[Step]:
    """Return SSH without passwords, root's authorized keys, the lab's CA, the package sources, and a finished dpkg."""
    _, operator = context.secret_store.key_pair("operator")
    keys = list(dict.fromkeys((operator.strip(), *context.container.ssh_keys)))
    # The first value that sshd reads counts, and `50-cloud-init.conf` of Ubuntu's cloud images allows passwords.
    settings = SshdSettings(
        "/etc/ssh/sshd_config.d/00-homelab.conf", render("sshd.conf.j2"), validate='/usr/sbin/sshd -t -f "$new"'
    )
    # On Ubuntu a socket starts ssh.service, so the service may not be running yet.
    reloaded = Command(
        "sshd has loaded its settings", "true", "systemctl try-reload-or-restart ssh.service", triggered_by=[settings]
    )
    return (
        settings,
        reloaded,
        Directory("/root/.ssh", mode=0o700),
        File("/root/.ssh/authorized_keys", render("authorized_keys.j2", keys=keys), mode=0o600),
        *trusted_authority(context),
        *_running_values(context.container),
        *packages_from(context.inventory.sources),
        *security_updates(context),
        *closed_web_ports(context),
        DpkgConfigured(),
    )


def base_packages(context: ServiceContext) -> Sequence[str]:
    """Return the packages of every container, which are installed together with those of its services."""
    return [PACKAGE] if context.inventory.sources.security_updates else []


def _running_values(container: Container) -> Iterator[Step]:
    """Yield the host name and the MTU, which a running container keeps when Proxmox's configuration changes."""
    shape = container.shape
    yield Command(f"host name {shape.hostname}", f'[ "$(hostname)" = {shape.hostname} ]', f"hostname {shape.hostname}")
    if shape.mtu:
        device = "/sys/class/net/eth0/mtu"
        yield Command(
            f"MTU {shape.mtu} of eth0", f'[ "$(cat {device})" = {shape.mtu} ]', f"ip link set dev eth0 mtu {shape.mtu}"
        )


def packages_from(sources: PackageSources) -> Iterator[Step]:
    """Yield the CAs and package sources of apt, pip and uv, as far as the inventory sets them."""
    if sources.apt_proxy:
        proxy = f'Acquire::http::Proxy "{sources.apt_proxy}";'
        yield File("/etc/apt/apt.conf.d/90homelab", f"{proxy}\n".encode())
        # The last file that sets it counts. The error quotes all of them.
        yield Command(
            "apt uses the proxy",
            f"apt-config dump Acquire::http::Proxy | grep -qxF {quote(proxy)}",
            "grep -riE 'Acquire::http|http::Proxy' /etc/apt/apt.conf* >&2; exit 1",
        )
    if sources.certificates or any(url.startswith("https:") for url in _apt_urls(sources)):
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
        trusted = f"trusted-host = {url.hostname}\n" if url.scheme == "http" else ""  # pip requires that, uv does not
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


def _apt_urls(sources: PackageSources) -> Iterator[str]:
    yield from (url for url in (sources.apt_mirror, sources.apt_security_mirror) if url)
    yield from (repository.uri for repository in sources.repositories)


def _repository(repository: Repository) -> Iterator[Step]:
    """Yield the key, which is valid for this repository only, and then the repository."""
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
