"""What pyinfra itself runs: the operations of each host, from the list beside the inventory. See pyinfra.py."""

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
def ensured(met, make, owed):  # type: ignore[no-untyped-def]
    """Run `make` unless `met` succeeds; in any case where what it depends on has changed."""
    if owed() or host.get_fact(Command, f"if {met}\nthen echo yes; else echo no; fi") != "yes":
        yield make
    else:
        host.noop("is so already")


done: dict = {}  # type: ignore[type-arg]
for step in host.loop(json.loads(Path(state.cwd, "steps.json").read_text())[host.name]):
    changed = any_changed(*(done[title] for title in step["watches"]))
    name, arguments = step["operation"], step["arguments"]
    if name == "ensured":
        done[step["title"]] = ensured(name=step["title"], owed=changed, **arguments)
    elif step["only_after"]:
        done[step["title"]] = OPERATIONS[name](name=step["title"], _if=changed, **arguments)
    else:
        done[step["title"]] = OPERATIONS[name](name=step["title"], **arguments)
