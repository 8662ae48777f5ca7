"""The verb that adopts existing containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Yes, add_verb, settings


def register(app: typer.Typer) -> None:
    """Add this verb."""
    add_verb(app, import_, "import")


def import_(
    vmids: Annotated[list[int], typer.Argument(metavar="VMID", help="The containers' vmids.")], yes: Yes = False
) -> None:
    """Adopt existing containers: write them into the inventory and tag them on Proxmox.

    Shows the new entries and the changes that `homelab up` would make after it, and asks. Changes nothing inside.

    Example:  homelab import 105 106
    """
    from homelab.cli.plan_output import show_imported, show_proposal
    from homelab.commands.import_ import Proposal, import_containers

    def ask(proposal: Proposal) -> bool:
        show_proposal(proposal)
        return confirm("Continue?", yes)

    def public_key() -> str:
        return settings.session().secrets.key_pair("operator")[1]

    show_imported(import_containers(settings.paths, vmids, public_key=public_key, confirm=ask))
