"""`homelab service new`: a service of the user's own, next to the inventory, that can be deployed as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from homelab.errors import InputError
from homelab.local_files import write_new
from homelab.render import render
from homelab.services.registry import FOLDER, Registry

# The accounts of Debian and of homelab's services, as the service gets a system user of its name.
_ACCOUNTS = (
    *("root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www", "backup"),
    *("list", "irc", "nobody", "sshd", "messagebus", "systemd", "postgres", "analytics", "airflow"),
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


def new_service(folder: Path, name: str) -> list[Path]:
    """Write the module, its template and its test into the inventory's folder; return their paths.

    Raises InputError for a name that is taken or that cannot be a module's name; overwrites nothing.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"Cannot create service {name}: a name has lower-case letters, digits and underscores",
            "It begins with a letter, and has at most 31 characters.",
            "Choose a name such as file_share.",
        )
    action = f"create service {name}"
    if name in _ACCOUNTS or name in Registry(folder).names():
        raise InputError(f"Cannot {action}: the name is taken", "", "`homelab services` lists all names.")
    values = {"name": name, "class_name": "".join(word.capitalize() for word in name.split("_"))}
    texts = {
        folder / FOLDER / f"{name}.py": "new/service.py.j2",
        folder / FOLDER / "templates" / f"{name}.service.j2": "new/service.unit.j2",
        folder / "tests" / f"test_{name}.py": "new/test_service.py.j2",
    }
    if taken := next((path for path in texts if os.path.lexists(path)), None):
        raise InputError(f"Cannot {action}: {taken} already exists", "", "Choose another name.")
    write_new({path: render(template, **values) for path, template in texts.items()}, action)
    return list(texts)
