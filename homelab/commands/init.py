"""`homelab init`: a commented inventory to start from, the node's certificate pinned, and how to make the token."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.inventory.json_schema import write_schema
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.private_files import write_private
from homelab.proxmox.privileges import pveum
from homelab.proxmox.tls import fetch_fingerprint

_POOL = "homelab"


def init(
    path: Path,
    *,
    host: str,
    port: int = 8006,
    confirm: Callable[[str], bool],
    ask: Callable[[str], str],
    say: Callable[[str], None],
    token_id: str = "homelab@pve!cli",  # noqa: S107 - a name, no secret
) -> Inventory:
    """Write the inventory, and the secrets that are given. Raises InputError if the inventory is there already.

    `ask` hides what is typed; an empty answer leaves a secret for later.
    """
    if path.exists():
        raise InputError(
            f"{path} exists already",
            "It would be overwritten.",
            "Change it by hand, or name another file with --inventory.",
        )
    fingerprint = fetch_fingerprint(host, port)
    say(
        f"The certificate of {host}:{port} has the SHA-256 fingerprint\n  {fingerprint}\n"
        "On the node, `pvenode cert info` shows it."
    )
    if not confirm("Is it the same there?"):
        raise HomelabError(
            "The certificate was not confirmed",
            "Nothing has been written.",
            "Compare it on the node itself. If it differs, something else answers at this address.",
        )
    path.write_text(starter(bundled_path("inventory.yaml").read_text(), host, port, fingerprint, token_id))
    write_schema(path.parent)
    inventory = load([path])
    say(f"\n{path.name} is written. On the node, as root, make the user, the role and the token:\n")
    for line in pveum(inventory):
        say(f"  {line}")
    _keep(inventory.endpoint.token_file, ask("\nThe token's secret (empty: later)"), say)
    _keep(inventory.pipeline.api_key_file, ask("OpenWeather API key (empty: later)"), say)
    say(f"\nLook through {path.name}: addresses, vmids, storage. Then: `homelab up`.")
    return inventory


def starter(text: str, host: str, port: int, fingerprint: str, token_id: str) -> str:
    """The shipped inventory with these values filled in, its comments kept.

    It has a pool: what the token may do to containers then ends there.
    """
    for key, value in (
        ("host", host),
        ("port", str(port)),
        ("token_id", token_id),
        ("fingerprint", f'"{fingerprint}"'),
        ("pool", _POOL),
    ):
        text = _set(text, key, value)
    return text


def _set(text: str, key: str, value: str) -> str:
    """With a key of the second level set, also where it stands there as a comment."""
    changed, count = re.subn(
        rf"(?m)^  (?:# )?{key}:( +)(?:\"[^\"]*\"|[^\s#]+)( *#.*)?$",
        lambda match: f"  {key}: {value}{match[2] or ''}",
        text,
        count=1,
    )
    if count != 1:
        raise AssertionError(f"the shipped inventory has no {key}")
    return changed


def _keep(file: Path, secret: str, say: Callable[[str], None]) -> None:
    if secret.strip():
        write_private(file, secret.strip().encode())
        say(f"kept in {file}")
    else:
        say(f"put it into {file}, mode 0600")
