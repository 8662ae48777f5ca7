"""Template downloads by a node, from Proxmox's list; the node verifies its SHA-512 checksums."""

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

_DEADLINE = 3600.0  # timeout in seconds: about 130 MiB, even over a slow line


def missing(plan: Plan) -> Sequence[Template]:
    """Return the distinct templates that have to be downloaded before the plan is carried out."""
    wanted = [action.template for action in plan.actions if isinstance(action, Create) and action.template]
    return list(
        {
            (template.shared or template.node, template.volume): template for template in wanted if template.missing
        }.values()
    )


def download(client: Client, template: Template, progress: Progress) -> None:
    """Let the node download a template, or wait for a running download of it.

    Raises HomelabError with the last lines of the task's log.
    """
    node, name = template.node, template.file_name
    for running in tasks.of_container(client, node, name, "download", finished=False):
        with progress.step(node, f"wait for the running download of {name}") as update:
            tasks.ended(client, running, _DEADLINE, partial(_show_percentage, update))
    # The earlier download may have failed, or used another storage.
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
            tasks.wait(
                client, task, f"download {name} to {template.storage}", _DEADLINE, partial(_show_percentage, update)
            )
        except tasks.TaskFailed as error:
            raise HomelabError(
                error.brief,
                error.details,
                f"Check that node {node} reaches the internet (`pveam update` on it) and "
                f"that {template.storage} has free space; a proxy is set in the datacenter's options. Then run the "
                "same command again; no other change was made.",
            ) from error


def _show_percentage(update: StatusUpdate, line: str) -> None:
    """Show the download's percentage: the node's wget logs it every 32 MiB."""
    if match := re.search(r"\s(\d+)%", line):
        update(f"{match[1]} %")
