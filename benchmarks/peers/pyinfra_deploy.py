"""The deploy that pyinfra runs: the operations of each host, from the list next to the inventory. See pyinfra.py."""

import json
from pathlib import Path

from pyinfra import host, state
from pyinfra.api import operation
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

OPERATIONS = {
    "packages": apt.packages,
    "user": server.user,
    "directory": files.directory,
    "put": files.put,
    "sync": files.sync,
    "service": systemd.service,
    "shell": server.shell,
}


@operation()
def checked(check, apply, triggered):  # type: ignore[no-untyped-def]
    """Run `apply` if `check` fails, or if a step has changed that triggers it."""
    if triggered() or host.get_fact(Command, f"if {check}\nthen echo yes; else echo no; fi") != "yes":
        yield apply
    else:
        host.noop("is up to date")


done: dict = {}  # type: ignore[type-arg]
for step in host.loop(json.loads(Path(state.cwd, "steps.json").read_text())[host.name]):
    changed = any_changed(*(done[title] for title in step["triggered_by"]))
    name, arguments = step["operation"], step["arguments"]
    if name == "checked":
        done[step["title"]] = checked(name=step["title"], triggered=changed, **arguments)
    elif step["only_after"]:
        done[step["title"]] = OPERATIONS[name](name=step["title"], _if=changed, **arguments)
    else:
        done[step["title"]] = OPERATIONS[name](name=step["title"], **arguments)
