"""The user's OpenSSH client, with homelab's key and the pinned host keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.known_hosts import fingerprint
from homelab.plan import select_containers
from homelab.private_files import write_private
from homelab.runtime.container_addresses import located
from homelab.runtime.session import Session

_DEADLINE = 10.0  # seconds until DHCP has given the container an address
CONNECTION_FAILED = 255  # OpenSSH's exit status without a connection


def ssh_argv(session: Session, name: str, command: Sequence[str] = (), terminal: bool = True) -> list[str]:
    """Return the words that run OpenSSH's client. Raises HomelabError if the container's host key is not known.

    One word of `command` is shell text, as with ssh itself; several are the words of a command.
    """
    container = located(session.inventory, select_containers(session.inventory, [name])[0], _DEADLINE)
    keys = session.known_hosts.key_lines()
    if name not in keys:
        raise HomelabError(
            f"Cannot connect to {name}: its SSH host key is not known yet",
            "It is read when the container is created.",
            "Run `homelab up` first.",
        )
    file = session.inventory.state_dir / "known_hosts"
    write_private(file, "".join(f"{pinned} {key}\n" for pinned, key in keys.items()).encode())
    options = {
        "IdentityFile": session.secrets.key_path("operator"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": file,
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": name,
        "UpdateHostKeys": "no",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    remote = [command[0] if len(command) == 1 else argv(*command)] if command else []
    return ["ssh", *words, *(["-t"] if terminal and not command else []), f"root@{container.address}", *remote]


def host_key_change(
    session: Session, name: str, shown: Callable[[str], str | None] | None = None
) -> HomelabError | None:
    """Return the error for a changed host key, None if the key is unchanged or the container does not answer.

    `shown` returns the key line that an address shows.
    """
    from homelab.ssh import changed_key, shown_key

    container = located(session.inventory, select_containers(session.inventory, [name])[0], _DEADLINE)
    address = str(container.address)
    pin = session.known_hosts.pins().get(name)
    line = (shown or shown_key)(address) if pin else None
    if pin is None or line is None or fingerprint(line) == pin.fingerprint:
        return None
    return changed_key(name, address, fingerprint(line), pin)
