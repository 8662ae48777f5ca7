"""`packages:`, where the containers get their packages from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from homelab.distributions import distribution_of
from homelab.inventory import openpgp
from homelab.inventory.section import Section, shown
from homelab.model import PackageSources, Repository

_URL = r"https?://[^\s@/?#]+(/[^\s@?#]*)?"  # without a password: it would be in the containers for everyone to read
_PACKAGE = r"[a-z0-9][a-z0-9.+-]+"
_VERSION = r"[A-Za-z0-9.+:~*-]+"
_SUITE = r"[A-Za-z0-9./][A-Za-z0-9._+/-]*"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")


def sources(table: Section, templates: Collection[str]) -> PackageSources:
    """The section, or what holds without one, for containers of these templates. What is wrong is recorded."""
    mirror, security = _mirrors(table, templates)
    repositories = tuple(_repositories(table.table("repositories", required=False, says="repositories by name")))
    proxy = table.text("apt_proxy", None, pattern=_URL, says="a URL such as http://192.168.2.5:3142, no password")
    index = table.text(
        "pypi_index",
        None,
        pattern=_URL,
        says="a URL such as https://devpi.home.arpa/root/pypi/+simple/, without a password",
    )
    certificates = tuple(dict.fromkeys(_certificates(table)))
    pins = _pins(table.table("pins", required=False, says="versions by package"))
    table.close()
    return PackageSources(
        apt_proxy=proxy,
        apt_mirror=mirror,
        apt_security_mirror=security,
        repositories=repositories,
        pypi_index=index,
        certificates=certificates,
        pins=pins,
    )


def _mirrors(table: Section, templates: Collection[str]) -> tuple[str | None, str | None]:
    mirror, security = (
        table.text(key, None, pattern=_URL, says=f"a URL such as {example}, without a password")
        for key, example in (
            ("apt_mirror", "http://mirror.home.arpa/ubuntu"),
            ("apt_security_mirror", "http://mirror.home.arpa/debian-security"),
        )
    )
    known = {found.family for found in map(distribution_of, templates) if found}
    if mirror and len(known) > 1:
        table.fault(
            f"would be for containers of {' and of '.join(sorted(known))}, and each needs an archive of its "
            "own: write `apt_proxy`, or have containers of one of them",
            "apt_mirror",
        )
    if security and not table.data.get("apt_mirror"):
        table.fault("stands without `apt_mirror`: write both", "apt_security_mirror")
    return mirror, security


def _repositories(table: Section) -> Iterator[Repository]:
    for name, below in table.tables(says="a mapping with uri, suite, components, key and fingerprint"):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            table.fault("must be a name of lower-case letters, digits and hyphens", name)
        uri = below.text("uri", pattern=_URL, says="a URL such as https://apt.home.arpa, without a password")
        suite = below.text("suite", pattern=_SUITE, says="a suite such as stable; with a `/` at its end if it is flat")
        components = below.items("components", [], says="a list such as [main]") or []
        for index, item in enumerate(components):
            if not isinstance(item, str) or not re.fullmatch(_SUITE, item):
                below.fault(f"must be a component such as main, not {shown(item)}", "components", index)
        if suite and suite.endswith("/") == bool(components):
            below.fault(
                "must not be there: a flat repository has none" if components else "is missing: a list such as [main]",
                "components",
            )
        key = _key(below)
        below.close()
        if uri and suite and key:
            yield Repository(name=name, uri=uri, suite=suite, components=tuple(map(str, components)), key=key)


def _key(table: Section) -> bytes | None:
    """The key's packets, if the one key in that file has the fingerprint that stands beside it."""
    name = table.text("key", says="a file with an OpenPGP key, as seen from here")
    says = "the key's fingerprint: 40 hexadecimal digits, from a place that you trust"
    wanted = table.text("fingerprint", pattern=r"(?i)(\s*[0-9a-f]){40}\s*", says=says)
    if not name or not wanted:
        return None
    file = table.file("key").parent / Path(name).expanduser()
    try:
        key = openpgp.dearmored(file.read_bytes())
        found = openpgp.fingerprints(key)
    except OSError as error:
        table.fault(f"{file} cannot be read: {error}", "key")
    except ValueError as error:
        table.fault(f"{file} cannot be used: {error}", "key")
    else:
        if len(found) != 1:
            table.fault(f"{file} must hold one key, and holds {len(found)}", "key")
        elif found[0] != "".join(wanted.split()).upper():
            table.fault(
                f"is not that of {file}, which is {found[0]}: do not use that key unless you know why", "fingerprint"
            )
        else:
            return key
    return None


def _certificates(table: Section) -> Iterator[str]:
    for index, item in enumerate(table.items("ca_certificates", [], says="a list of files in PEM") or ()):
        if not isinstance(item, str):
            table.fault(f"must be a file in PEM, not {shown(item)}", "ca_certificates", index)
            continue
        file = table.file("ca_certificates").parent / Path(item).expanduser()
        try:
            found = _PEM.findall(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            table.fault(f"{file} cannot be read: {error}", "ca_certificates", index)
            continue
        if not found:
            table.fault(f"{file} has no certificate in PEM in it", "ca_certificates", index)
        yield from found


def _pins(table: Section) -> Mapping[str, str]:
    for name in table.data:
        if not re.fullmatch(_PACKAGE, name):
            table.fault("is not a name of a Debian package", name)
    found = {
        name: table.text(name, pattern=_VERSION, says='a version or a pattern of one, as "16.4-*"')
        for name in table.data
    }
    return {name: version for name, version in found.items() if version}
