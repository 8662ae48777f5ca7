"""What has to be so in every container, whatever runs there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from homelab.model import Site, Sources, Step
from homelab.render import render
from homelab.steps import Certificate, Command, Directory, File, Packages, Pinned


def everywhere(site: Site) -> Sequence[Step]:
    """Nobody logs in over SSH with a password, and as root only those whom the inventory names, and homelab."""
    _, operator = site.vault.key_pair("operator")
    keys = list(dict.fromkeys((operator.strip(), *site.container.ssh_keys)))
    settings = File("/etc/ssh/sshd_config.d/homelab.conf", render("sshd.conf.j2"),
                    validate='/usr/sbin/sshd -t -f "$new"')
    # On Ubuntu a socket starts ssh.service, so it may not run yet.
    reloaded = Command("sshd has read its settings", "true", "systemctl try-reload-or-restart ssh.service",
                       watches=[settings])
    return (
        settings, reloaded,
        Directory("/root/.ssh", mode=0o700),
        File("/root/.ssh/authorized_keys", render("authorized_keys.j2", keys=keys), mode=0o600),
        *packages_from(site.inventory.sources),
    )


def packages_from(sources: Sources) -> Iterator[Step]:
    """Whom apt, pip and uv trust, and where they get packages from; nothing where the inventory says nothing."""
    if sources.apt_proxy:
        yield File("/etc/apt/apt.conf.d/90homelab", f'Acquire::http::Proxy "{sources.apt_proxy}";\n'.encode())
    if sources.certificates:
        yield Packages(["ca-certificates"])
    for certificate in sources.certificates:
        name = hashlib.sha256(certificate.encode()).hexdigest()[:12]
        yield Certificate(f"/usr/local/share/ca-certificates/homelab-{name}.crt", f"{certificate}\n".encode())
    if sources.pypi_index:
        url = urlsplit(sources.pypi_index)
        trusted = f"trusted-host = {url.hostname}\n" if url.scheme == "http" else ""  # pip asks for that, uv does not
        yield File("/etc/pip.conf", f"[global]\nindex-url = {sources.pypi_index}\n{trusted}".encode())
        yield Directory("/etc/uv")
        yield File("/etc/uv/uv.toml", f'[[index]]\nurl = "{sources.pypi_index}"\ndefault = true\n'.encode())
    if sources.pins:
        text = "\n".join(f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n"
                         for name, version in sorted(sources.pins.items()))
        yield File("/etc/apt/preferences.d/homelab", text.encode())
        yield Pinned(sources.pins)
