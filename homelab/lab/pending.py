"""Pending changes of running containers, where fakepve differs from Proxmox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fakepve import FakeCt, FakePve, PveError


class PendingApi(FakePve):  # type: ignore[misc]
    """Mixin for changes that wait for a container's next start."""

    async def _update_config(
        self, ct: FakeCt, user: str, values: Any, deletes: Sequence[str], reverts: Sequence[str]
    ) -> None:
        """Keep an option that is only pending when it is deleted: Proxmox withdraws it only with `revert`."""
        if ct.status == "running":
            deletes = [option for option in deletes if option in ct.config or ct.pending.get(option) is None]
        await super()._update_config(ct, user, values, deletes, reverts)


def unpluggable(ct: FakeCt, before: Mapping[str, Any], reason: str) -> PveError:
    """Make the changes since `before` pending, and return Proxmox's error for a running container that refuses them."""
    now, ct.config = ct.config, dict(before)
    options = sorted(option for option in now if now[option] != before.get(option))
    ct.pending.update({option: now[option] for option in options})
    errors = {option: f"unable to hotplug {option}: {reason}\n" for option in options}
    return PveError(400, "Parameter verification failed.", errors)
