"""`proxmox:`, the connection to the Proxmox VE API."""

from __future__ import annotations

import re
from dataclasses import replace

from homelab.inventory.declaration import declaration_of
from homelab.inventory.section import Section
from homelab.model import ProxmoxApi


def endpoint(section: Section) -> ProxmoxApi:
    """Read the section; required values with a problem are None."""
    found: ProxmoxApi = declaration_of(ProxmoxApi).build(section)
    if found.fingerprint and found.ca_file:
        section.problem("cannot be combined with `fingerprint`: keep one of them", "ca_file")
    digits = re.findall("..", (found.fingerprint or "").replace(":", "").upper())
    return replace(found, fingerprint=":".join(digits) or None)
