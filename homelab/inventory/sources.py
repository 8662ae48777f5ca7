"""`packages:`, where the containers get their packages from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from homelab.inventory.table import Table, shown
from homelab.model import Sources

_URL = r"https?://[^\s@/?#]+(/[^\s@?#]*)?"  # without a password: it would be in the containers for everyone to read
_PACKAGE = r"[a-z0-9][a-z0-9.+-]+"
_VERSION = r"[A-Za-z0-9.+:~*-]+"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----")


def sources(table: Table) -> Sources:
    """The section, or what holds without one. What is wrong is recorded."""
    proxy = table.text("apt_proxy", None, pattern=_URL, says="a URL such as http://192.168.2.5:3142, no password")
    index = table.text("pypi_index", None, pattern=_URL,
                       says="a URL such as https://devpi.home.arpa/root/pypi/+simple/, without a password")
    certificates = tuple(dict.fromkeys(_certificates(table)))
    pins = _pins(table.table("pins", required=False, says="versions by package"))
    table.close()
    return Sources(apt_proxy=proxy, pypi_index=index, certificates=certificates, pins=pins)


def _certificates(table: Table) -> Iterator[str]:
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


def _pins(table: Table) -> Mapping[str, str]:
    for name in table.data:
        if not re.fullmatch(_PACKAGE, name):
            table.fault("is not a name of a Debian package", name)
    found = {name: table.text(name, pattern=_VERSION, says='a version or a pattern of one, as "16.4-*"')
             for name in table.data}
    return {name: version for name, version in found.items() if version}
