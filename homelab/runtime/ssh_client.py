"""`homelab ssh` and `homelab logs`: the user's own OpenSSH client, with our key and our pins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.known_hosts import KnownHosts, fingerprint
from homelab.model import Inventory
from homelab.plan import select_containers
from homelab.private_files import write_private
from homelab.secrets import FileSecretStore


def ssh_argv(
    inventory: Inventory,
    name: str,
    command: Sequence[str],
    secret_store: FileSecretStore,
    known_hosts: KnownHosts,
    terminal: bool = True,
) -> list[str]:
    """The words that run OpenSSH's client. Raises HomelabError when the container's host key is not known."""
    container = select_containers(inventory, [name])[0]
    keys = {pinned: pin.key for pinned, pin in known_hosts.pins().items() if pin.key}
    if name not in keys:
        raise HomelabError(
            f"{name}: its SSH host key is not known yet",
            "It is read when the container is made.",
            "Run `homelab up` first.",
        )
    file = inventory.state_dir / "known_hosts"
    write_private(file, "".join(f"{pinned} {key}\n" for pinned, key in keys.items()).encode())
    options = {
        "IdentityFile": secret_store.key_path("operator"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": file,
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": name,
        "UpdateHostKeys": "no",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    # One word is shell text, as with ssh itself; several are the words of a command.
    remote = [command[0] if len(command) == 1 else argv(*command)] if command else []
    return ["ssh", *words, *(["-t"] if terminal and not command else []), f"root@{container.address}", *remote]


def logs_argv(
    inventory: Inventory,
    name: str,
    unit: str | None,
    follow: bool,
    lines: int,
    secret_store: FileSecretStore,
    known_hosts: KnownHosts,
) -> list[str]:
    """The words that show a container's journal over OpenSSH's client."""
    services = select_containers(inventory, [name])[0].services.values()
    units = [unit] if unit else [u for service in services for u in service.units()]
    words = ["journalctl", "--no-pager", f"--lines={lines}", *(f"--unit={u}" for u in units)]
    shown = argv(*words, *(["--follow"] if follow else []))
    # journalctl is content with a unit that it has never heard of.
    known = f"{argv('systemctl', 'cat', '--', unit)} >/dev/null && " if unit else ""
    return ssh_argv(inventory, name, [known + shown], secret_store, known_hosts)


def host_key_change(
    inventory: Inventory, name: str, known_hosts: KnownHosts, shown: Callable[[str], str | None] | None = None
) -> HomelabError | None:
    """Why OpenSSH's client would not connect, if that is because the host key has changed.

    `shown` gives the key line that an address shows.
    """
    from homelab.ssh import changed, shown_key

    address, pin = str(select_containers(inventory, [name])[0].address), known_hosts.pins().get(name)
    line = (shown or shown_key)(address) if pin else None
    if pin is None or line is None or fingerprint(line) == pin.fingerprint:
        return None
    return changed(name, address, fingerprint(line), pin)
