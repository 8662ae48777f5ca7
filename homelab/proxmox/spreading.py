"""The nodes of containers that share a cluster, such as those of Airflow's workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from homelab.model import Container, Inventory
from homelab.plan import Create, Note, ObservedGuest, Plan
from homelab.proxmox.client import Client
from homelab.proxmox.plan_executor import only_node


def with_nodes(client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest], plan: Plan) -> Plan:
    """Return the plan with a node for each new container that spreads: the node with the fewest of these containers.

    Equal nodes are compared by their number of containers of the lab. Makes no call without such a container.
    """
    created = [action.container for action in plan.actions if isinstance(action, Create)]
    new = [container for container in created if container.spreads]
    nodes = online_nodes(client) if new else ()
    if not nodes:
        return plan
    of_lab = Counter([*(guest.node for guest in found.values()), *(each.node for each in created if each.node)])
    of_kind = Counter(found[each.vmid].node for each in inventory.containers if each.spreads and each.vmid in found)
    chosen: dict[str, str] = {}
    for container in new:
        node = min(nodes, key=lambda node: (of_kind[node], of_lab[node], node))
        of_kind[node] += 1
        of_lab[node] += 1
        chosen[container.name] = node
    actions = [
        replace(action, container=replace(action.container, node=chosen[action.container.name]))
        if action.container.name in chosen
        else action
        for action in plan.actions
    ]
    reason = "the node with the fewest containers of its kind"
    notes = [Note(name, f"is created on {node}, {reason}") for name, node in chosen.items()] if len(nodes) > 1 else []
    return replace(plan, actions=tuple(actions), notes=(*plan.notes, *notes))


def candidate_nodes(client: Client, container: Container) -> Sequence[str]:
    """Return the nodes on which a container may be created. Raises HomelabError if the inventory has to name a node."""
    if container.spreads and (nodes := online_nodes(client)):
        return nodes
    return [container.node or only_node(client)]


def online_nodes(client: Client) -> Sequence[str]:
    """Return the names of the nodes that answer, sorted."""
    return sorted(str(row["node"]) for row in client.get("nodes") if row.get("status") == "online")
