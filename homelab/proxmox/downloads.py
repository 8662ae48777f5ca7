"""Templates that a node downloads from Proxmox's own list, which it also checks them against (SHA-512)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from homelab.errors import HomelabError
from homelab.plan import Create, Plan
from homelab.plan.template import Template
from homelab.progress import Progress, StatusUpdate
from homelab.proxmox import tasks
from homelab.proxmox.client import Client
from homelab.proxmox.templates import volumes

_DEADLINE = 3600.0  # seconds: some 130 MiB, over whatever line the node has


def missing(plan: Plan) -> Sequence[Template]:
    """The templates that have to be downloaded before the plan is carried out, each once however many need it."""
    wanted = [action.template for action in plan.actions if isinstance(action, Create) and action.template]
    return list(
        {
            (template.shared or template.node, template.volume): template for template in wanted if template.missing
        }.values()
    )


def download(client: Client, template: Template, progress: Progress) -> None:
    """Have the node download a template; a download of it that runs already is waited for instead.

    Raises HomelabError with the last lines of the task's log.
    """
    node, name = template.node, template.file_name
    for running in tasks.of_container(client, node, name, "download", finished=False):
        with progress.step(node, f"wait for the download of {name}, which still runs") as update:
            tasks.ended(client, running, _DEADLINE, partial(_tell, update))
    # What ran may have failed, or have been for another storage.
    if template.volume in volumes(client, node, template.storage):
        return
    with progress.step(node, f"download {name} to {template.storage}") as update:
        task = tasks.begin(
            client,
            node,
            name,
            "download",
            partial(client.post, f"nodes/{node}/aplinfo", storage=template.storage, template=name),
        )
        try:
            tasks.wait(client, task, f"{name}: downloading it to {template.storage}", _DEADLINE, partial(_tell, update))
        except tasks.TaskFailed as error:
            raise HomelabError(
                error.brief,
                error.details,
                f"Does node {node} reach the internet (`pveam update` on it tells), is "
                f"there room on {template.storage}? A proxy goes into the datacenter's options. Then run the same "
                "command again; nothing else has been begun.",
            ) from error


def _tell(update: StatusUpdate, line: str) -> None:
    """How far it is: the node's wget writes a line for each 32 MiB, with the percentage that it has by then."""
    if match := re.search(r"\s(\d+)%", line):
        update(f"{match[1]} %")
