"""Copies of the published files for services on other containers: pushed over SSH after each publication.

The container of the pipelines pushes with a key of its own, which can only list and replace these copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from shlex import quote

from homelab.host import argv
from homelab.model import Container, Endpoint, Pipeline, ServiceContext, Step
from homelab.model.endpoints import SSH_PORT
from homelab.paths import bundled_path
from homelab.pipelines.layout import Layout
from homelab.pipelines.published_files import COPIES, FILE, is_builder, publishing, readers_group, reading_containers
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.monitoring import SETTINGS
from homelab.services.ssh_peers import known_hosts, ssh_command
from homelab.steps import Directory, File, SystemdUnit, User

UNIT = "homelab-publications.service"
# Of a service that reads the published files.
PUSHES = Endpoint(name="ssh", port=SSH_PORT, description="SSH", audience="publisher")
PUSHER = "/var/lib/homelab-publications"  # the folder of the program that pushes
_FOLDER = "/opt/homelab/publications"
_KEY = f"{SETTINGS}/publications.key"
_KNOWN_HOSTS = f"{SETTINGS}/publications.known_hosts"
_LOGIN = "published"
_HOME = f"/home/{_LOGIN}"
_RESERVE = 256 * 2**20  # bytes of the disk that stay free
_RECORD = f"{PUSHER}/copies"
# The first lines are the expected copies without a time. The program that pushes writes the others: it cannot add a
# copy, or another metric.
_COPY_TIMES = """
NR <= expected { found[$1 " " $2] = 0; next }
($1 " " $2) in found && $3 ~ /^[0-9]+$/ && length($3) < 12 { found[$1 " " $2] = $3 }
END {
    for (each in found) {
        split(each, part, " ")
        labels = "reader=\\"" part[1] "\\",pipeline=\\"" part[2] "\\""
        print "homelab_published_copy_timestamp_seconds{" labels "} " found[each]
    }
}"""


def push_publications(context: ServiceContext) -> Iterator[Step]:
    """Yield the unit that pushes the published files, if services of other containers read them."""
    targets, pipelines = _targets(context), publishing(context.inventory)
    if not targets or not pipelines:
        return
    sandbox = _sandbox(pipelines)
    settings = {
        "targets": {each.name: f"{_LOGIN}@{each.address}" for each in targets},
        "files": {each.name: Layout(each).published for each in pipelines},
        "record": _RECORD,
        "ssh": [*ssh_command(_KEY, _KNOWN_HOSTS, 10), "-o", "ServerAliveInterval=15"],
    }
    key = context.secret_store.key_pair("publications")[0].reveal().encode()
    files = (
        File(f"{_FOLDER}/push.py", bundled_path("templates/publications/push.py").read_bytes()),
        File(f"{SETTINGS}/publications.json", f"{json.dumps(settings, indent=1)}\n".encode()),
        known_hosts(context, _KNOWN_HOSTS, targets, "The program that pushes published files"),
        File(_KEY, key, group=sandbox.user, mode=0o640, secret=True),
    )
    text = render(
        "publications/homelab-publications.service.j2", program=files[0].path, settings=files[1].path, sandbox=sandbox
    )
    unit = File(f"/etc/systemd/system/{UNIT}", text)
    yield from (*sandbox.account(), Directory(SETTINGS), Directory(_FOLDER), *files, unit)
    yield SystemdUnit(UNIT, triggered_by=[*files, unit])


def copy_metrics(context: ServiceContext) -> Mapping[str, str]:
    """Return the command for the times of the copies; the time of a missing copy is 0."""
    targets, pipelines = _targets(context), publishing(context.inventory)
    if not targets or not pipelines:
        return {}
    expected = [f"{target.name} {pipeline.name}" for target in targets for pipeline in pipelines]
    return {"copies": copy_times(expected, _sandbox(pipelines).read(_RECORD))}


def copy_times(expected: Sequence[str], command: str) -> str:
    """Return shell text that prints a metric for each expected copy, from the record that a command prints."""
    lines = argv("printf", "%s\\n", *expected)
    return f"{{ {lines}; {command}; }} | awk -v expected={len(expected)} {quote(_COPY_TIMES)} | sort"


def _targets(context: ServiceContext) -> Sequence[Container]:
    """Return the other containers that read the published files; one that was not created yet stops no deploy."""
    readers = [each for each in reading_containers(context.inventory) if each.name != context.container.name]
    return [each for each in readers if each.name in context.host_keys and each.known_address]


def _sandbox(pipelines: Sequence[Pipeline]) -> Sandbox:
    """Return the limits of the program that pushes."""
    user = PUSHER.rpartition("/")[2]
    return Sandbox(user, (PUSHER,), groups=[readers_group(each.name) for each in pipelines])


def reading_sandbox(context: ServiceContext, sandbox: Sandbox) -> Sandbox:
    """Return the limits of a service that reads the published files: in the container of the pipelines, in place."""
    inventory = context.inventory
    if not is_builder(inventory, context.container):
        return sandbox
    return replace(sandbox, groups=[readers_group(each.name) for each in publishing(inventory)])


def receive_publications(context: ServiceContext) -> Iterator[Step]:
    """Yield the folder of the copies, and the login that admits only the container of the pipelines.

    In the container of the pipelines itself, services read the published files in place: yield nothing.
    """
    if is_builder(context.inventory, context.container):
        return
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
