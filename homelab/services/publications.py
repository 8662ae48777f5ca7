"""Copies of the published files for services on other containers: pushed over SSH after each publication.

The container of the pipelines pushes with a key of its own, which can only list and replace these copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from homelab.model import ServiceContext, Step
from homelab.paths import bundled_path
from homelab.pipelines.layout import Layout
from homelab.pipelines.published_files import COPIES, FILE, publishing, readers_group, reading_containers
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.monitoring import SETTINGS
from homelab.services.ssh_peers import known_hosts, ssh_command
from homelab.steps import Directory, File, SystemdUnit, User

UNIT = "homelab-publications.service"
PUSHER = "/var/lib/homelab-publications"  # the folder of the program that pushes
_FOLDER = "/opt/homelab/publications"
_KEY = f"{SETTINGS}/publications.key"
_KNOWN_HOSTS = f"{SETTINGS}/publications.known_hosts"
_LOGIN = "published"
_HOME = f"/home/{_LOGIN}"
_RESERVE = 256 * 2**20  # bytes of the disk that stay free


def push_publications(context: ServiceContext) -> Iterator[Step]:
    """Yield the unit that pushes the published files, if services of other containers read them."""
    inventory = context.inventory
    readers = [each for each in reading_containers(inventory) if each.name != context.container.name]
    # A container that does not exist yet must not stop a deploy of the pipelines.
    targets = [each for each in readers if each.name in context.host_keys and each.known_address]
    pipelines = publishing(inventory)
    if not targets or not pipelines:
        return
    user = PUSHER.rpartition("/")[2]
    sandbox = Sandbox(user, (PUSHER,), groups=[readers_group(each.name) for each in pipelines])
    settings = {
        "targets": {each.name: f"{_LOGIN}@{each.address}" for each in targets},
        "files": {each.name: Layout(each).published for each in pipelines},
        "ssh": [*ssh_command(_KEY, _KNOWN_HOSTS, 10), "-o", "ServerAliveInterval=15"],
    }
    key = context.secret_store.key_pair("publications")[0].reveal().encode()
    files = (
        File(f"{_FOLDER}/push.py", bundled_path("templates/publications/push.py").read_bytes()),
        File(f"{SETTINGS}/publications.json", f"{json.dumps(settings, indent=1)}\n".encode()),
        known_hosts(context, _KNOWN_HOSTS, targets, "The program that pushes published files"),
        File(_KEY, key, group=user, mode=0o640, secret=True),
    )
    text = render(
        "publications/homelab-publications.service.j2", program=files[0].path, settings=files[1].path, sandbox=sandbox
    )
    unit = File(f"/etc/systemd/system/{UNIT}", text)
    yield from (*sandbox.account(), Directory(SETTINGS), Directory(_FOLDER), *files, unit)
    yield SystemdUnit(UNIT, triggered_by=[*files, unit])


def receive_publications(context: ServiceContext) -> Iterator[Step]:
    """Yield the folder of the copies, and the login that admits only the container of the pipelines."""
    gate = f"{_FOLDER}/gate"
    names = [each.name for each in publishing(context.inventory)]
    program = render("publications/gate.j2", folder=COPIES, file=FILE, names=names, reserve=_RESERVE)
    yield User(_LOGIN, _HOME, "/bin/sh")
    yield Directory(COPIES, _LOGIN, _LOGIN)
    yield Directory(_FOLDER)
    yield File(gate, program, mode=0o755)
    yield Directory(_HOME)
    yield Directory(f"{_HOME}/.ssh")
    sources = ",".join(str(each.address) for each in context.inventory.containers_with("analytics"))
    public = context.secret_store.key_pair("publications")[1]
    line = f'restrict,from="{sources}",command="{gate}" {public}\n'
    yield File(f"{_HOME}/.ssh/authorized_keys", line.encode())
