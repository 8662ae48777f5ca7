"""The least privileges that homelab's token needs, as data and as the `pveum` lines that grant them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from homelab.model import ContainerConfig, Inventory
from homelab.roles import BRIDGE, CONTAINERS, GUESTS, NODE, POOL, ROLES, STORAGE, TEMPLATES, Role


def grants(inventory: Inventory, nodes: Sequence[str] = ()) -> Mapping[str, Sequence[Role]]:
    """Return the needed roles by path. On Proxmox, a role on a path replaces those inherited from above.

    `nodes` are the candidates for containers without a `node`; empty means all. Roles on containers are granted on
    their pool or on /vms, because Proxmox removes the grants on a container's own path together with the container.
    """
    given: dict[str, dict[Role, None]] = {}

    def give(path: str, role: Role) -> None:
        given.setdefault(path, {})[role] = None

    for container in inventory.containers:
        if container.shape.pool:
            give(f"/pool/{container.shape.pool}", CONTAINERS)
            give(f"/pool/{container.shape.pool}", POOL)
            # Before a container is in the pool, the token has to see it and to set its tags.
            give("/vms", GUESTS)
        else:
            give("/vms", CONTAINERS)
        for node in [container.node] if container.node else nodes:
            give(f"/nodes/{node}", NODE)
        if not container.node and not nodes:
            give("/nodes", NODE)
        for storage in (container.storage, *(mount.storage for mount in container.shape.mounts)):
            give(f"/storage/{storage}", STORAGE)
        give(f"/storage/{container.template_storage}", TEMPLATES)
        if container.backup_storage:
            give(f"/storage/{container.backup_storage}", STORAGE)
        for path in bridges(container.shape):
            give(path, BRIDGE)
        if container.shape.firewall:
            give("/", NODE)  # to read the switch of the datacenter's firewall
    return {path: tuple(roles) for path, roles in given.items()}


def bridges(shape: ContainerConfig) -> list[str]:
    """Return the permission paths of a container's bridges, or of its VLANs on them."""
    links = [(shape.bridge, shape.vlan), *((card.bridge, card.vlan) for card in shape.networks)]
    return [f"/sdn/zones/localnetwork/{bridge}" + (f"/{vlan}" if vlan else "") for bridge, vlan in links]


def pools(inventory: Inventory) -> Sequence[str]:
    """Return the pools that the inventory names."""
    return sorted({container.shape.pool for container in inventory.containers if container.shape.pool})


def adoption(inventory: Inventory, vmid: int) -> str:
    """Return the command that applies the roles of the inventory's containers to a container made by hand."""
    if names := pools(inventory):
        return shlex.join(["pveum", "pool", "modify", names[0], "--vms", str(vmid), "--allow-move", "1"])
    return acl_line("/vms", [CONTAINERS], inventory.endpoint.token_id)


def privileges_on(permissions: Mapping[str, Mapping[str, object]], path: str) -> set[str]:
    """Return the privileges on a path from the answer of /access/permissions: its own, or the inherited ones."""
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        place = "/".join(parts[:end]) or "/"
        if place in permissions:
            return {name for name, inherited in permissions[place].items() if place == path or inherited}
    return set()


def pveum(inventory: Inventory) -> list[str]:
    """Return the commands that create the roles, the user and the token on the node, with comments.

    `token add` prints the token's secret, once. All other commands can be repeated.
    """
    user, _, name = inventory.endpoint.token_id.partition("!")
    granted = grants(inventory)
    roles = dict.fromkeys(role for each in granted.values() for role in each)
    return [
        "# One role for each kind of path. Repeat these lines to update the roles.",
        *(role_line(role, role.privileges) for role in roles),
        "# The pool, the user and its token. These commands fail if they already exist.",
        *(shlex.join(["pveum", "pool", "add", pool]) for pool in pools(inventory)),
        shlex.join(["pveum", "user", "add", user, "--comment", "homelab"]),
        shlex.join(["pveum", "user", "token", "add", user, name, "--privsep", "1"]),
        "# A token with privilege separation has the privileges that both it and its user have.",
        *grant_lines(granted, inventory.endpoint.token_id),
        "# Only if you use them:",
        *(f"{role_line(role, more)}    # {verb}" for role in roles for verb, more in role.optional),
    ]


def role_line(role: Role, names: Iterable[str]) -> str:
    """Return the command that creates a role, if it is missing, and adds privileges to it."""
    modify = shlex.join(["pveum", "role", "modify", role.name, "--append", "1", "--privs", " ".join(names)])
    return f"pveum role add {role.name} 2>/dev/null; {modify}"


def acl_line(path: str, roles: Iterable[Role], token_id: str) -> str:
    """Return the command that grants roles on a path to the token and to its user."""
    words = [
        "pveum",
        "acl",
        "modify",
        path,
        "--roles",
        ",".join(role.name for role in roles),
        "--users",
        token_id.partition("!")[0],
        "--tokens",
        token_id,
    ]
    # Without --propagate 0, a grant on / would apply to all paths.
    return shlex.join([*words, "--propagate", "0"] if path == "/" else words)


def grant_lines(granted: Mapping[str, Sequence[Role]], token_id: str) -> list[str]:
    """Return the commands that grant roles on several paths."""
    return [acl_line(path, roles, token_id) for path, roles in granted.items()]


def grant(message: str, token_id: str) -> str:
    """Derive a resolution from Proxmox's error text: the missing privilege and the commands that grant it."""
    if "root@pam" in message:
        return (
            "Proxmox reserves that for root@pam, regardless of the token's privileges: do it on the node with "
            "`pct set`, or leave it out of the inventory."
        )
    if tag := re.search(r"for modifying tag '([^']+)'", message):
        return (
            f"The datacenter's options restrict tags: at Datacenter > Options > User Tag Access, allow `{tag[1]}` "
            "or any tag (`free`), and do not register this tag."
        )
    if pool := re.search(r"pool '([^']+)' does not exist", message):
        return f"On the node: `pveum pool add {pool[1]}`; or write another `pool` in the inventory."
    match = re.search(r"\((/[^,]*), ([\w.|]+)\)", message)
    if match is None:
        return "`homelab doctor` checks all privileges and prints the commands that grant the missing ones."
    path, privilege = match[1], match[2].partition("|")[0]
    role = role_of(path, privilege)
    line = f"`{role_line(role, [privilege])}`"
    # Print no grant on a container's own path: the pool or /vms outlives the container.
    acl = "" if path.startswith("/vms") else f", then `{acl_line(path, [role], token_id)}`"
    return (
        f"It needs {privilege} on {path}, for the token and for its user. On the node: {line}{acl}. "
        "`homelab doctor` checks all privileges and roles."
    )


def role_of(path: str, privilege: str) -> Role:
    """Return the role that grants a privilege on a path of this kind."""
    kinds = {"vms": CONTAINERS, "storage": STORAGE, "nodes": NODE, "sdn": BRIDGE, "pool": POOL}
    role = kinds.get(path.split("/")[1], NODE)
    return next((each for each in (role, *ROLES) if privilege in each.all_privileges), role)
