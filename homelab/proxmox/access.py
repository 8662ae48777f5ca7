"""What the token may do: the least that homelab needs, as data and as the `pveum` lines that grant it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from homelab.model import Inventory, Shape
from homelab.roles import BRIDGE, CONTAINERS, NODE, OTHERS, POOL, ROLES, STORAGE, TEMPLATES, Role


def grants(inventory: Inventory, nodes: Sequence[str] = ()) -> Mapping[str, Sequence[Role]]:
    """The roles by path. A role on a path takes the place of those above it, so each path has all that it needs.

    `nodes` are those that a container without a `node` may be on; all, if none are given.
    Containers are granted one by one, not by their pool: who makes a container with tags needs VM.Config.Options on
    its own path, before it is in any pool.
    """
    given: dict[str, dict[Role, None]] = {}

    def give(path: str, role: Role) -> None:
        given.setdefault(path, {})[role] = None

    for vmid in vmids(inventory):
        give(f"/vms/{vmid}", CONTAINERS)
    for container in inventory.containers:
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
        if container.shape.pool:
            give(f"/pool/{container.shape.pool}", POOL)
        if container.shape.firewall:
            give("/", NODE)  # whether the cluster's firewall is on
    return {path: tuple(roles) for path, roles in given.items()}


def bridge(shape: Shape) -> str:
    """The path of a container's bridge, or of its VLAN on that bridge."""
    path = f"/sdn/zones/localnetwork/{shape.bridge}"
    return f"{path}/{shape.vlan}" if shape.vlan else path


def vmids(inventory: Inventory) -> Sequence[int]:
    """The vmids that containers have or may get."""
    given = {container.vmid for container in inventory.containers}
    return sorted(given - {0} | (set(inventory.vmids) if 0 in given else set()))


def privileges(inventory: Inventory) -> Mapping[str, Sequence[str]]:
    """The privileges by path. Creating, changing, starting and removing containers, and reading their tasks."""
    return {path: sorted({privilege for role in roles for privilege in role.privileges})
            for path, roles in grants(inventory).items()}


def held(permissions: Mapping[str, Mapping[str, object]], path: str) -> set[str]:
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
        "# The user and its token. They say so if they are there already.",
        shlex.join(["pveum", "user", "add", user, "--comment", "homelab"]),
        shlex.join(["pveum", "user", "token", "add", user, name, "--privsep", "1"]),
        "# A token with privilege separation may do what both it and its user may.",
        *grant_lines(granted, inventory.endpoint.token_id),
        "# Only if you use them:",
        *(f"{role_line(role, more)}    # {verb}" for role in roles for verb, more in role.beyond),
        f"{role_line(OTHERS, OTHERS.privileges)}; {acl_line('/vms', [OTHERS], inventory.endpoint.token_id)}"
        "    # `homelab import` looks at containers that are not ours yet"]


def role_line(role: Role, names: Iterable[str]) -> str:
    """The command that makes a role, if it is not there, and adds these privileges to it."""
    modify = shlex.join(["pveum", "role", "modify", role.name, "--append", "1", "--privs", " ".join(names)])
    return f"pveum role add {role.name} 2>/dev/null; {modify}"


def acl_line(path: str, roles: Iterable[Role], token_id: str) -> str:
    """The command that gives roles on a path to the token and to its user."""
    words = ["pveum", "acl", "modify", path, "--roles", ",".join(role.name for role in roles),
             "--users", token_id.partition("!")[0], "--tokens", token_id]
    # What is granted at the top would else be granted everywhere.
    return shlex.join([*words, "--propagate", "0"] if path == "/" else words)


def grant_lines(granted: Mapping[str, Sequence[Role]], token_id: str) -> list[str]:
    """The commands for several paths; those of many containers are one."""
    containers = [path for path in granted if path.startswith("/vms/")]
    lines = [acl_line(path, roles, token_id) for path, roles in granted.items() if path not in containers]
    if len(containers) < 2:
        return [*(acl_line(path, granted[path], token_id) for path in containers), *lines]
    each = acl_line("/vms/ID", [CONTAINERS], token_id).replace("/vms/ID", "/vms/$id")
    numbers = runs(int(path.rpartition("/")[2]) for path in containers)
    return [f"for id in {numbers}; do {each}; done", *lines]


def runs(numbers: Iterable[int]) -> str:
    """Numbers in rising order as a shell's words, those that follow one another as `{167..169}`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return " ".join(f"{{{run[0]}..{run[-1]}}}" if len(run) > 1 else str(run[0]) for run in found)


def grant(said: str, token_id: str) -> str:
    """The way out of a refusal, from Proxmox's words for it: which privilege is missing, and the lines that give it."""
    if "root@pam" in said:
        return ("Proxmox lets nobody but root@pam do that, whatever the token's privileges: do it on the node with "
                "`pct set`, or leave it out of the inventory.")
    if tag := re.search(r"for modifying tag '([^']+)'", said):
        return (f"The datacenter's options restrict tags: Datacenter > Options > User Tag Access has to allow "
                f"`{tag[1]}`, or any tag (`free`), and it must not be a registered one.")
    match = re.search(r"\((/[^,]*), ([\w.|]+)\)", said)
    path, privilege = (match[1], match[2].partition("|")[0]) if match else ("/vms", "VM.Allocate")
    role = role_of(path, privilege)
    return (f"It needs {privilege} on {path}, for the token and for its user. On the node: "
            f"`{role_line(role, [privilege])}`, then `{acl_line(path, [role], token_id)}`. "
            "`homelab doctor` looks at all privileges.")


def role_of(path: str, privilege: str) -> Role:
    """The role that gives a privilege on a path of this kind."""
    kinds = {"vms": CONTAINERS, "storage": STORAGE, "nodes": NODE, "sdn": BRIDGE, "pool": POOL}
    role = kinds.get(path.split("/")[1], NODE)
    return role if privilege in role.whole else next((each for each in ROLES if privilege in each.whole), role)
