"""The Proxmox roles of homelab's token: one per kind of path, with the least privileges that its calls need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A role with its privileges; `optional` are the privileges that only some verbs need, by verb."""

    name: str
    privileges: tuple[str, ...]
    optional: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def all_privileges(self) -> tuple[str, ...]:
        """All privileges, including the optional ones."""
        return (*self.privileges, *(privilege for _, more in self.optional for privilege in more))


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
    optional=(
        ("snapshot", ("VM.Snapshot", "VM.Snapshot.Rollback")),
        ("backup", ("VM.Backup",)),
        ("golden create", ("VM.Clone",)),
    ),
)
STORAGE = Role("HomelabStorage", ("Datastore.AllocateSpace",))
TEMPLATES = Role(
    "HomelabTemplates", ("Datastore.Audit",), optional=(("download of templates", ("Datastore.AllocateTemplate",)),)
)
NODE = Role("HomelabNode", ("Sys.Audit",))
BRIDGE = Role("HomelabBridge", ("SDN.Use",))
POOL = Role("HomelabPool", ("Pool.Audit",), optional=(("another pool for an existing container", ("Pool.Allocate",)),))
# In addition to a role on a pool: the privileges on a container's own path before it is in the pool.
GUESTS = Role(
    "HomelabGuests", ("VM.Audit", "VM.Config.Options"), optional=(("restore of a removed container", ("VM.Backup",)),)
)
ROLES = (CONTAINERS, STORAGE, TEMPLATES, NODE, BRIDGE, POOL, GUESTS)
