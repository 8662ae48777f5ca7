"""The verb that makes containers ours which were there before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Yes, confirm, open_state, settings

if TYPE_CHECKING:
    from homelab.commands.import_ import Proposal


def register(app: typer.Typer) -> None:
    """Add this verb."""
    app.command("import")(import_)


def import_(
    vmids: Annotated[list[int], typer.Argument(metavar="VMID", help="The containers, by their vmids.")],
    yes: Yes = False,
) -> None:
    """Write containers that exist into the inventory, and make them ours by tagging them.

    It shows what it would write, and what `homelab up` would then change, and asks. Nothing in them is touched.

    Example:  homelab import 105 106
    """
    from homelab.cli.output import show_imported
    from homelab.commands.import_ import import_containers

    inventory = settings.load()
    secret_store, _ = open_state(inventory)
    imported = import_containers(
        [settings.inventory, *settings.overlays], vmids, secret_store=secret_store, confirm=_confirm(yes)
    )
    show_imported(imported)


def _confirm(yes: bool) -> Callable[[Proposal], bool]:
    """Shows what would be done, and asks. Raises InputError when nobody is there to answer."""
    from homelab.cli.output import show_proposal

    def ask(proposal: Proposal) -> bool:
        show_proposal(proposal)
        return confirm("import …", "Go on?", yes)

    return ask
