"""`homelab init`: a commented inventory, the pinned certificate of the node, and the commands for the token."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.inventory.json_schema import write_schema
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.private_files import private_folder, write_private
from homelab.proxmox.privileges import pveum
from homelab.proxmox.tls import CERTIFICATE_FILE, fetch_fingerprint

_POOL = "homelab"


def init(
    path: Path,
    *,
    host: str,
    port: int = 8006,
    confirm: Callable[[str], bool],
    ask: Callable[[str], str],
    output: Callable[[str], None],
) -> Inventory:
    """Write the inventory and the secrets that the user enters. Raises InputError if the inventory exists.

    `ask` does not echo the answer; an empty answer skips a secret.
    """
    if path.exists():
        raise InputError(
            f"Cannot write {path}: it already exists",
            "homelab does not overwrite an inventory.",
            "Edit it, or choose another file with --inventory.",
        )
    fingerprint = fetch_fingerprint(host, port)
    output(
        f"The certificate of {host}:{port} has the SHA-256 fingerprint\n  {fingerprint}\n"
        f"On the node, `pvenode cert info` shows it: {CERTIFICATE_FILE}."
    )
    if not confirm("Is it the same there?"):
        raise HomelabError(
            "Cannot pin the certificate: it was not confirmed",
            "Nothing was written.",
            "Compare it on the node itself. If it differs, another machine answers at this address.",
        )
    path.write_text(starter(bundled_path("inventory.yaml").read_text(), host, port, fingerprint))
    write_schema(path.parent)
    inventory = load([path])
    private_folder(inventory.state_dir)
    output(f"\n{path.name} is written. On the node, as root, create the user, the role and the token:\n")
    for line in pveum(inventory):
        output(f"  {line}")
    _write_secret(inventory.endpoint.token_file, ask("\nThe token's secret (empty: later)"), output)
    if inventory.weather:
        _write_secret(inventory.weather.api_key_file, ask("OpenWeather API key (empty: later)"), output)
    output(f"\nCheck {path.name}: addresses, vmids, storage. Then run `homelab up`.")
    return inventory


def starter(text: str, host: str, port: int, fingerprint: str) -> str:
    """Return the shipped inventory with these values, and with its comments.

    It has a pool, which limits the token's privileges to the containers in it.
    """
    for key, value in (("host", host), ("port", str(port)), ("fingerprint", f'"{fingerprint}"'), ("pool", _POOL)):
        text = _set(text, key, value)
    return text


def _set(text: str, key: str, value: str) -> str:
    """Return the text with a key of the second level set, even if the key is commented out."""
    changed, count = re.subn(
        rf"(?m)^  (?:# )?{key}:( +)(?:\"[^\"]*\"|[^\s#]+)( *#.*)?$",
        lambda match: f"  {key}: {value}{match[2] or ''}",
        text,
        count=1,
    )
    if count != 1:
        raise AssertionError(f"The shipped inventory has no {key}")
    return changed


def _write_secret(file: Path, secret: str, output: Callable[[str], None]) -> None:
    if secret.strip():
        write_private(file, secret.strip().encode())
        output(f"Written to {file}.")
    else:
        output(f"Write it to {file}, mode 0600.")
