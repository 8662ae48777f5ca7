"""The roles that homelab's token has on Proxmox: one for each kind of path, with the least that its calls need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A role's name and the privileges in it. `beyond`: what only some verbs need, by verb."""

    name: str
    privileges: tuple[str, ...]
    beyond: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """All privileges, those of every verb included."""
        return (*self.privileges, *(privilege for _, more in self.beyond for privilege in more))


CONTAINERS = Role(
    "HomelabContainers",
    (
        "VM.Allocate",
        "VM.Audit",
        "VM.Config.CPU",
        "VM.Config.Disk",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.PowerMgmt",
    ),
    beyond=(
        ("snapshot", ("VM.Snapshot", "VM.Snapshot.Rollback")),
        ("backup", ("VM.Backup",)),
        ("golden create", ("VM.Clone",)),
    ),
)
STORAGE = Role("HomelabStorage", ("Datastore.AllocateSpace",))
TEMPLATES = Role(
    "HomelabTemplates", ("Datastore.Audit",), beyond=(("download of templates", ("Datastore.AllocateTemplate",)),)
)
NODE = Role("HomelabNode", ("Sys.Audit",))
BRIDGE = Role("HomelabBridge", ("SDN.Use",))
POOL = Role(
    "HomelabPool", ("Pool.Audit",), beyond=(("another pool for a container that is there", ("Pool.Allocate",)),)
)
# Beside a role on a pool: what Proxmox asks for on a container's own path before it is in the pool.
GUESTS = Role(
    "HomelabGuests",
    ("VM.Audit", "VM.Config.Options"),
    beyond=(("restore of a container that is gone", ("VM.Backup",)),),
)
ROLES = (CONTAINERS, STORAGE, TEMPLATES, NODE, BRIDGE, POOL, GUESTS)
