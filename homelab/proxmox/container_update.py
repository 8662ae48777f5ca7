"""Update a container's configuration, of which parts may be pending until the next start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from homelab.errors import HomelabError
from homelab.model import Container
from homelab.plan import ObservedGuest, Update
from homelab.plan.drift import settings
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered
from homelab.proxmox.inspect import current_digest, with_config
from homelab.proxmox.properties import options, revertable

_TRIES = 3  # attempts to send a change when the answers are lost


def update(client: Client, action: Update, *, restarts: bool) -> None:
    """Change the configuration. Raises HomelabError.

    If the plan `restarts` the container afterwards, a change that cannot be applied while it runs is no error:
    Proxmox keeps it as pending, and the next start applies it.
    """
    names = [change.field for change in action.changes]
    parameters = _parameters(action, names)
    for _ in range(_TRIES):
        try:
            client.put(f"nodes/{action.found.node}/lxc/{action.found.vmid}/config", **parameters)
            return
        except Unanswered as error:
            lost = error
        except ProxmoxError as error:
            if "unable to hotplug" not in error.details or not _is_updated(client, action, names):
                raise
            if restarts:
                return
            raise HomelabError(
                f"Cannot apply the update of {action.container.name} while it runs: it is pending",
                error.details,
                "Run the same command again: its plan restarts the container, which applies the update.",
            ) from error
        if _is_updated(client, action, names):
            return
        # With a new digest, Proxmox also refuses an earlier attempt that arrives late.
        refuse_changed(client, action.container, action.found)
    raise lost


def after_growth(client: Client, action: Update) -> Update:
    """Return an update with the current digest: the growth of a disk has changed the configuration."""
    return replace(action, found=replace(action.found, digest=current_digest(client, action.found)))


def refuse_changed(client: Client, container: Container, found: ObservedGuest) -> None:
    """Raise HomelabError if the container's configuration has changed since the plan was made."""
    if current_digest(client, found) != found.digest:
        raise changed(container, found, "configuration")


def changed(container: Container, found: ObservedGuest, aspect: str) -> HomelabError:
    """Return the error for a container with another configuration or firewall than at the time of the plan."""
    return HomelabError(
        f"Cannot change {container.name}: it was changed after the plan was made",
        f"Its {aspect} on node {found.node} is no longer the one that the plan was made from.",
        "No action of its plan was carried out. Run the same command again: it makes a new plan.",
    )


def _parameters(action: Update, names: Sequence[str]) -> dict[str, str | int]:
    found, wanted = action.found, action.container.shape
    values = options(wanted, names, found.config)
    # `delete` leaves a value that is only pending, and the next start makes it live.
    reverted = revertable(wanted, found.live, names) & set(found.pending) if found.live else frozenset()
    parameters = {option: value for option, value in values.items() if value is not None and option not in reverted}
    if deleted := [option for option, value in values.items() if value is None and option not in reverted]:
        parameters["delete"] = ",".join(deleted)
    if reverted:
        parameters["revert"] = ",".join(sorted(reverted))
    if found.digest:
        parameters["digest"] = found.digest
    return parameters


def _is_updated(client: Client, action: Update, names: Sequence[str]) -> bool:
    """Check that the configuration, with pending changes, has none of the differences any more."""
    now = with_config(client, action.found)
    remaining = settings(action.container, now.shape) if now.shape else action.changes
    return not {change.field for change in remaining}.intersection(names)
