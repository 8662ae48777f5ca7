"""What the token may do: the least that homelab needs, as data and as the `pveum` lines that grant it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from homelab.model import Inventory

ROLE = "Homelab"
_CONTAINERS = ("VM.Allocate", "VM.Audit", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.Memory", "VM.Config.Network",
               "VM.Config.Options", "VM.PowerMgmt")


def privileges(inventory: Inventory) -> Mapping[str, Sequence[str]]:
    """The privileges by path. Creating, changing, starting and removing containers, and reading their tasks."""
    needed: dict[str, tuple[str, ...]] = {"/vms": _CONTAINERS, "/nodes": ("Sys.Audit",)}
    for container in inventory.containers:
        needed[f"/storage/{container.storage}"] = ("Datastore.AllocateSpace", "Datastore.Audit")
        needed[f"/sdn/zones/localnetwork/{container.shape.bridge}"] = ("SDN.Use",)
        if container.pool:
            needed[f"/pool/{container.pool}"] = ("VM.Allocate", "Pool.Audit")
    for container in inventory.containers:
        needed.setdefault(f"/storage/{container.template_storage}", ("Datastore.Audit",))
    return needed


def pveum(inventory: Inventory) -> list[str]:
    """The commands that make the user, the role and the token on the node. `token add` prints the secret, once."""
    user, _, name = inventory.endpoint.token_id.partition("!")
    token = inventory.endpoint.token_id
    needed = privileges(inventory)
    role = sorted({privilege for privileges in needed.values() for privilege in privileges})
    # A token with privilege separation may do what both it and its user may.
    return [shlex.join(["pveum", "role", "add", ROLE, "--privs", " ".join(role)]),
            shlex.join(["pveum", "user", "add", user, "--comment", "homelab"]),
            shlex.join(["pveum", "user", "token", "add", user, name, "--privsep", "1"]),
            *(shlex.join(["pveum", "acl", "modify", path, "--roles", ROLE, "--users", user, "--tokens", token])
              for path in needed)]
