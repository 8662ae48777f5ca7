"""The steps of every container, for all services."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from shlex import quote
from urllib.parse import urlsplit

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.model import Container, PackageSources, Repository, ServiceContext, Step
from homelab.model.options import Size
from homelab.model.stages import INGESTION
from homelab.pipelines.layout import FOLDER, Layout
from homelab.render import render
from homelab.services.broker import no_waiting_messages
from homelab.services.closed_ports import closed_ports
from homelab.services.lab_certificates import trusted_authority
from homelab.services.security_updates import PACKAGE, security_updates
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
    Refuse,
    SshdSettings,
)


def base_system(context: ServiceContext) -> Sequence[Step]:
    """Return SSH without passwords, root's authorized keys, the lab's CA, the package sources, and a finished dpkg."""
    _, operator = context.secret_store.key_pair("operator")
    keys = list(dict.fromkeys((operator.strip(), *context.container.ssh_keys, *_runner_keys(context))))
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
        *_no_spooled_rows(context),
        *no_waiting_messages(context),
        *trusted_authority(context),
        *_running_values(context.container),
        *packages_from(context.inventory.sources),
        *security_updates(context),
        *closed_ports(context),
        *_journal_limits(context.container.journal_size),
        DpkgConfigured(),
    )


def _runner_keys(context: ServiceContext) -> Iterator[str]:
    """Yield the lines of the keys with which services deploy, each for its container's address and commands only."""
    for container, service in context.inventory.services():
        if service.deploys:
            _, key = context.secret_store.key_pair("runner")
            yield f'restrict,from="{container.address}" {key.strip()}'


def _journal_limits(size: Size) -> Iterator[Step]:
    """Yield the limit of the journal, on disk and in memory."""
    folder = "/etc/systemd/journald.conf.d"
    limits = File(f"{folder}/homelab.conf", render("journald.conf.j2", size=size))
    yield Directory(folder)
    yield limits
    # journald reads it only at a restart, and loses no line.
    yield Command("journald has loaded its limits", "true", "systemctl restart systemd-journald", triggered_by=[limits])


def base_packages(context: ServiceContext) -> Sequence[str]:
    """Return the packages of every container, which are installed together with those of its services."""
    return [PACKAGE] if context.inventory.sources.security_updates else []


def _no_spooled_rows(context: ServiceContext) -> Iterator[Step]:
    """Yield the step that refuses to leave rows in a spool that no ingestion reads any more."""
    inventory, name = context.inventory, context.container.name
    if not inventory.pipelines or INGESTION in inventory.stages_on(context.container):
        return
    folders = argv("find", *(f"{Layout(each).data}/spool" for each in inventory.pipelines))
    rows = f"{folders} -type f -size +0 -print -quit 2>/dev/null"
    yield Refuse(
        "no rows are left in a spool",
        f'[ -z "$({rows})" ] || echo t',
        HomelabError(
            f"Cannot move the ingestion away from {name}: rows wait in its spool",
            f"Files in {FOLDER}/*/data/spool have rows that PostgreSQL has not received yet.",
            f"Move the ingestion back to {name} in the inventory, run `homelab deploy`, and run each pipeline once, "
            "which stores the rows. Then move it again.",
        ),
    )


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
