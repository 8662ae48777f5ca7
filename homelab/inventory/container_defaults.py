"""Settings of a container that `defaults:` can hold as well: placement and treatment by Proxmox."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from homelab.distributions import DISTRIBUTIONS
from homelab.inventory.errors import did_you_mean
from homelab.inventory.network_section import Bridge, Mtu, VlanTag
from homelab.inventory.section import Section
from homelab.inventory.value_types import NO_HOME
from homelab.model import Network
from homelab.model.options import Option, Size

NAME = r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
HOST_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LARGEST = 1 << 17  # GiB
_PRIVATE = "PRIVATE KEY-----"
_PUBLIC_KEY = (
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) "
    r"[A-Za-z0-9+/=]+( .*)?"
)
_FLAGS = ("nesting", "keyctl", "fuse", "mknod", "force_rw_sys")
Feature = Annotated[
    str, Option(pattern=rf"{'|'.join(_FLAGS)}|mount=[a-z0-9;]+", expected=f"one of {', '.join(_FLAGS)}, or mount=nfs")
]
Tag = Annotated[
    str,
    Option(
        pattern=r"(?!homelab)[a-z0-9_][a-z0-9_.+-]*",
        expected="a tag: lower-case letters, digits, _ . + -, not beginning with homelab",
    ),
]


def _storage(description: str) -> Option:
    return Option(description, pattern=NAME, expected="a storage's name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefaults:
    """Settings of a container, or the defaults of all containers; the fields are the keys of the inventory."""

    template: Annotated[
        str,
        Option(
            "Template: a distribution, which stands for the newest template of the storage or of Proxmox's list, or a "
            "volume id. It counts at creation only.",
            expected="a template's alias or volume id",
            schema={"anyOf": [{"enum": list(DISTRIBUTIONS)}, {"pattern": ":vztmpl/"}]},
        ),
    ] = "ubuntu-24.04"
    template_storage: Annotated[str, _storage("Storage with the templates.")] = "local"
    storage: Annotated[str, _storage("Storage of the root disk, at creation.")] = "local-lvm"
    backup_storage: Annotated[
        str | None, _storage("Storage of backups; by default, the only one of the node that holds backups.")
    ] = None
    pool: Annotated[
        str | None,
        Option(
            "Existing resource pool; by default, none, or the present one.",
            pattern=r"[A-Za-z0-9._/-]+",
            expected="a pool's name",
        ),
    ] = None
    bridge: Bridge = ""
    vlan: VlanTag = None
    mtu: Mtu = None
    firewall: Annotated[bool, Option("Deny all inbound traffic except the services' ports.")] = False
    monitoring: Annotated[
        bool, Option("Add the service node_exporter, and postgres_exporter to the container of PostgreSQL.")
    ] = False
    journal_size: Annotated[
        Size, Option("Size of the container's journal; the oldest lines are removed first.", low=Size("16MiB"))
    ] = Size("500MB")
    swap: Annotated[int, Option("Swap in MiB.", low=0, high=1 << 20, unit="MiB")] = 512
    disk: Annotated[
        int, Option("Size of the root disk in GiB; it can grow, but not shrink.", low=1, high=LARGEST, unit="GiB")
    ] = 8
    onboot: Annotated[bool, Option("Start with the node, in the order in which the services require each other.")] = (
        True
    )
    start_delay: Annotated[
        int | None,
        Option("Seconds that the node waits before it starts the next one.", low=0, high=3600, unit="seconds"),
    ] = None
    stop_timeout: Annotated[
        int | None, Option("Seconds to shut down before the node stops it.", low=0, high=3600, unit="seconds")
    ] = None
    protection: Annotated[bool, Option("Make Proxmox refuse its removal.")] = False
    features: Annotated[frozenset[Feature], Option("Features of the container; all except nesting need root@pam.")] = (
        frozenset({"nesting"})
    )
    tags: Annotated[frozenset[Tag], Option("Further tags.")] = frozenset()
    ssh_keys: Annotated[
        tuple[Annotated[str, Option(expected="a public key or a file with some")], ...],
        Option(
            "Public keys that may log in as root, or files of them.",
            expected="a list of public keys, or of files with them",
        ),
    ] = ()
    clone_from: Annotated[
        str | None,
        Option(
            "Container whose golden container is cloned instead of unpacking the template, at creation.",
            pattern=HOST_NAME,
            expected="the name of a container with a golden container",
        ),
    ] = None

    @classmethod
    def on(cls, network: Network | None) -> ContainerDefaults:
        """Return the built-in defaults; bridge, vlan and mtu are those of the network."""
        return cls(bridge=network.bridge, vlan=network.vlan, mtu=network.mtu) if network else cls()


def override(defaults: ContainerDefaults, section: Section, values: Mapping[str, Any]) -> ContainerDefaults:
    """Return the defaults with the values that the section gives."""
    given = {field.name: values[field.name] for field in fields(ContainerDefaults) if field.name in values}
    if "ssh_keys" in given:
        given["ssh_keys"] = _public_keys(section, given["ssh_keys"])
    template = given.get("template")
    if template is not None and template not in DISTRIBUTIONS and ":vztmpl/" not in template:
        section.problem(
            f"unknown template {template!r}; {did_you_mean(template, DISTRIBUTIONS)}; or a volume id such as "
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            "template",
        )
    return replace(defaults, **given)


def _public_keys(section: Section, items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for index, item in enumerate(items) for key in _keys_of(section, item, index)))


def _keys_of(section: Section, item: str, index: int) -> Iterator[str]:
    if _PRIVATE in item:
        section.problem("is a private key; write the public one", "ssh_keys", index)
        return
    lines = [item] if re.match(_PUBLIC_KEY, item) else _lines_of(section, item, index)
    for number, line in enumerate(lines, start=1):
        if re.fullmatch(_PUBLIC_KEY, line):
            yield line
        else:  # not quoted: the file may be a secret one
            section.problem(f"line {number} of {item} is not a public key", "ssh_keys", index)
            return


def _lines_of(section: Section, name: str, index: int) -> list[str]:
    try:
        path = section.resolve(name, "ssh_keys")
    except RuntimeError:
        section.problem(f"cannot use {name}: {NO_HOME}", "ssh_keys", index)
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        section.problem(f"cannot read {path}: {reason}", "ssh_keys", index)
        return []
    if _PRIVATE in text:
        section.problem(f"{path} is a private key; name the public one, {path.name}.pub", "ssh_keys", index)
        return []
    # Proxmox refuses comments.
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
