"""What the token may do: the least that homelab needs, as data and as the `pveum` lines that grant it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from homelab.model import ContainerConfig, Inventory
from homelab.roles import BRIDGE, CONTAINERS, GUESTS, NODE, POOL, ROLES, STORAGE, TEMPLATES, Role


def grants(inventory: Inventory, nodes: Sequence[str] = ()) -> Mapping[str, Sequence[Role]]:
    """The roles by path. A role on a path takes the place of those above it.

    `nodes` are those that a container without a `node` may be on; all, if none are given. Containers are granted by
    their pool, or all together: Proxmox removes what is granted on a container's own path with the container.
    """
    given: dict[str, dict[Role, None]] = {}

    def give(path: str, role: Role) -> None:
        given.setdefault(path, {})[role] = None

    for container in inventory.containers:
        if container.shape.pool:
            give(f"/pool/{container.shape.pool}", CONTAINERS)
            give(f"/pool/{container.shape.pool}", POOL)
            # Its tags are set before it is in the pool, and until then it has to be seen.
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
        give(bridge(container.shape), BRIDGE)
        if container.shape.firewall:
            give("/", NODE)  # whether the cluster's firewall is on
    return {path: tuple(roles) for path, roles in given.items()}


def bridge(shape: ContainerConfig) -> str:
    """The path of a container's bridge, or of its VLAN on that bridge."""
    path = f"/sdn/zones/localnetwork/{shape.bridge}"
    return f"{path}/{shape.vlan}" if shape.vlan else path


def pools(inventory: Inventory) -> Sequence[str]:
    """The pools that the inventory names."""
    return sorted({container.shape.pool for container in inventory.containers if container.shape.pool})


def adoption(inventory: Inventory, vmid: int) -> str:
    """The command that brings a container of somebody's under the roles that the inventory's containers have."""
    if names := pools(inventory):
        return shlex.join(["pveum", "pool", "modify", names[0], "--vms", str(vmid), "--allow-move", "1"])
    return acl_line("/vms", [CONTAINERS], inventory.endpoint.token_id)


def privileges_on(permissions: Mapping[str, Mapping[str, object]], path: str) -> set[str]:
    """The privileges on a path, from all that /access/permissions lists: its own, or those handed down to it."""
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        place = "/".join(parts[:end]) or "/"
        if place in permissions:
            return {name for name, handed_down in permissions[place].items() if place == path or handed_down}
    return set()


def pveum(inventory: Inventory) -> list[str]:
    """The commands that make the roles, the user and the token on the node, and comments between them.

    `token add` prints the token's secret, once. All the others may be run again.
    """
    user, _, name = inventory.endpoint.token_id.partition("!")
    granted = grants(inventory)
    roles = dict.fromkeys(role for each in granted.values() for role in each)
    return [
        "# One role for each kind of path; run again, these lines bring a role up to date.",
        *(role_line(role, role.privileges) for role in roles),
        "# The pool, the user and its token. They say so if they are there already.",
        *(shlex.join(["pveum", "pool", "add", pool]) for pool in pools(inventory)),
        shlex.join(["pveum", "user", "add", user, "--comment", "homelab"]),
        shlex.join(["pveum", "user", "token", "add", user, name, "--privsep", "1"]),
        "# A token with privilege separation may do what both it and its user may.",
        *grant_lines(granted, inventory.endpoint.token_id),
        "# Only if you use them:",
        *(f"{role_line(role, more)}    # {verb}" for role in roles for verb, more in role.optional),
    ]


def role_line(role: Role, names: Iterable[str]) -> str:
    """The command that makes a role, if it is not there, and adds these privileges to it."""
    modify = shlex.join(["pveum", "role", "modify", role.name, "--append", "1", "--privs", " ".join(names)])
    return f"pveum role add {role.name} 2>/dev/null; {modify}"


def acl_line(path: str, roles: Iterable[Role], token_id: str) -> str:
    """The command that gives roles on a path to the token and to its user."""
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
    # What is granted at the top would else be granted everywhere.
    return shlex.join([*words, "--propagate", "0"] if path == "/" else words)


def grant_lines(granted: Mapping[str, Sequence[Role]], token_id: str) -> list[str]:
    """The commands for several paths."""
    return [acl_line(path, roles, token_id) for path, roles in granted.items()]


def grant(said: str, token_id: str) -> str:
    """The way out of a refusal, from Proxmox's words for it: which privilege is missing, and the lines that give it."""
    if "root@pam" in said:
        return (
            "Proxmox lets nobody but root@pam do that, whatever the token's privileges: do it on the node with "
            "`pct set`, or leave it out of the inventory."
        )
    if tag := re.search(r"for modifying tag '([^']+)'", said):
        return (
            f"The datacenter's options restrict tags: Datacenter > Options > User Tag Access has to allow "
            f"`{tag[1]}`, or any tag (`free`), and it must not be a registered one."
        )
    if pool := re.search(r"pool '([^']+)' does not exist", said):
        return f"On the node: `pveum pool add {pool[1]}`; or write another `pool` in the inventory."
    match = re.search(r"\((/[^,]*), ([\w.|]+)\)", said)
    if match is None:
        return "`homelab doctor` looks at all privileges, and prints the lines that grant what is missing."
    path, privilege = match[1], match[2].partition("|")[0]
    role = role_of(path, privilege)
    line = f"`{role_line(role, [privilege])}`"
    # A container's own path is the last place to grant it: its pool, or /vms, outlives the container.
    where = "" if path.startswith("/vms") else f", then `{acl_line(path, [role], token_id)}`"
    return (
        f"It needs {privilege} on {path}, for the token and for its user. On the node: {line}{where}. "
        "`homelab doctor` looks at all privileges, and where the roles are missing."
    )


def role_of(path: str, privilege: str) -> Role:
    """The role that gives a privilege on a path of this kind."""
    kinds = {"vms": CONTAINERS, "storage": STORAGE, "nodes": NODE, "sdn": BRIDGE, "pool": POOL}
    role = kinds.get(path.split("/")[1], NODE)
    return next((each for each in (role, *ROLES) if privilege in each.all_privileges), role)
