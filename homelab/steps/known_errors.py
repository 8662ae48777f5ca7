"""What the last lines of a failed command mean, where we know it, and what mends it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownError:
    """What is wrong, and what to do about it; `{host}` stands for the container's name."""

    pattern: str
    says: str
    todo: str

    def of(self, host: str) -> tuple[str, str]:
        """Both sentences for one container."""
        return self.says.replace("{host}", host), self.todo.replace("{host}", host)


_AGAIN = "then run `homelab deploy` again"
# The first one that is found counts, so what causes the others stands before them.
KNOWN_ERRORS = (
    KnownError(
        r"No space left on device|Disk quota exceeded|You don't have enough free space|"
        r"tar: .*: Wrote only \d+ of \d+ bytes",
        "The disk of {host} is full.",
        "Look with `homelab ssh {host} -- df -h`. Give it a larger `disk` in the inventory and run `homelab up`, "
        f"or remove something there, {_AGAIN}.",
    ),
    KnownError(
        r"Read-only file system",
        "The disk of {host} cannot be written any more: the node has set it to read-only, as after a disk error.",
        f"Look at the node's own log (`dmesg`) and its storage, {_AGAIN}.",
    ),
    KnownError(
        r"is not valid yet|[Cc]ertificate is not yet valid|NotValidYet|[Cc]ertificate has expired|"
        r"Release file .* is expired|CertExpired",
        "Something signed is too new or too old for the clock of {host}, which it has from its node.",
        f"Compare `homelab ssh {{host}} -- date -u` with the real time; set the node's clock (chrony), {_AGAIN}.",
    ),
    KnownError(
        r"UnknownIssuer|self[- ]signed certificate|unable to get local issuer certificate|"
        r"[Cc]ertificate verif(y|ication) failed",
        "The server's certificate is signed by a CA that {host} does not know: a mirror or proxy of your own?",
        f"Name its CA's file under `packages: {{ca_certificates: […]}}` in the inventory, {_AGAIN}.",
    ),
    KnownError(
        r"Hash Sum mismatch|DO NOT MATCH THE HASHES|Hash mismatch for|hash mismatch",
        "What was downloaded is not what its hash says: a mirror that is just being updated, or a proxy that "
        "keeps something old or changes it. Nothing of it was installed.",
        f"Wait a while or empty the proxy's cache, {_AGAIN}.",
    ),
    KnownError(
        r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|signatures couldn't be verified|"
        r"OpenPGP signature verification failed",  # so says apt 3, on Debian 13
        "The package lists are not signed by a key that {host} trusts.",
        f"Do not force it: look which source it is (`homelab ssh {{host}} -- apt-get update`), {_AGAIN}.",
    ),
    KnownError(
        r"Temporary failure (in name resolution|resolving)|Could not resolve|Name or service not known|dns error|"
        r"failed to lookup address",
        "{host} cannot look up names: it has no network, or its name servers do not answer.",
        "Check `gateway`, `vlan` and `nameservers` in the inventory, and "
        f"`homelab ssh {{host}} -- getent hosts example.org`, {_AGAIN}.",
    ),
    KnownError(
        r"Network is unreachable|No route to host",
        "{host} has no way to that address.",
        f"Check `gateway` and `vlan` in the inventory, and `homelab ssh {{host}} -- ip route`, {_AGAIN}.",
    ),
    KnownError(
        r"[Cc]ould not get lock|Unable to acquire the dpkg frontend lock|Unable to lock directory",
        "Another package manager works in {host} and did not end.",
        f"See what it is (`homelab ssh {{host}} -- ps axf`), let it end, {_AGAIN}.",
    ),
    KnownError(
        r"[Aa]ddress already in use|EADDRINUSE",
        "Something else in {host} listens on that port already.",
        f"`homelab ssh {{host}} -- ss -ltnp` shows what; stop it or give the service another port, {_AGAIN}.",
    ),
    KnownError(
        r"Out of memory|Cannot allocate memory|MemoryError|oom-kill",
        "A process got no memory: {host} has run out of it.",
        f"Give it more `memory` or `swap` in the inventory, run `homelab up`, {_AGAIN}.",
    ),
    KnownError(
        r"\bKilled\b",
        "A process was killed with SIGKILL: by the kernel where {host} had no memory left, or by somebody.",
        f"If nobody did, give it more `memory` or `swap` in the inventory and run `homelab up`; {_AGAIN}.",
    ),
    KnownError(
        r"python3: (not found|No such file or directory)",
        "{host} has no Python.",
        f"Run `homelab ssh {{host}} -- apt-get install --reinstall python3-minimal`, {_AGAIN}.",
    ),
    KnownError(
        r"Failed to fetch|Unable to connect to|does not have a Release file|error sending request|"
        r"Could not connect to|No matching distribution found|not found in the package registry",
        "A mirror or proxy does not give what is needed: it is down, or refuses {host}.",
        f"Try the address above from the container; wait, or name another one under `packages` in the inventory, "
        f"{_AGAIN}.",
    ),
    KnownError(
        r"dpkg: error processing (package|archive)",
        "dpkg could not finish a package in {host}, which it names above with what went wrong.",
        "If the reason says nothing, install that package anew: `homelab ssh {host} -- apt-get install --reinstall "
        f"PACKAGE`, {_AGAIN}.",
    ),
    KnownError(
        r"Unable to locate package|has no installation candidate|Version '.*' for '.*' was not found",
        "The package, or the version that is pinned, is not in the sources of {host}.",
        f"See `homelab ssh {{host}} -- apt-cache policy PACKAGE`; mend the pin or the sources, {_AGAIN}.",
    ),
)


def explain(text: str, host: str) -> tuple[str, str] | None:
    """What a command's output means in this container, and what to do; None where we do not know."""
    return next((known.of(host) for known in KNOWN_ERRORS if re.search(known.pattern, text)), None)
