"""Known causes of failed commands, recognised by their output, each with its resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownError:
    """A known cause and its resolution; `{host}` stands for the name of the container.

    A `lasting` one does not pass by itself: no wait helps.
    """

    pattern: str
    cause: str
    resolution: str
    lasting: bool = False

    def on(self, host: str) -> tuple[str, str]:
        """Return the cause and the resolution for one container."""
        return self.cause.replace("{host}", host), self.resolution.replace("{host}", host)


_AGAIN = "then run `homelab deploy` again"
# The first match counts, so an error that causes others comes before them.
KNOWN_ERRORS = (
    KnownError(
        r"homelab: refused to write:",
        "Root writes only where no other user of {host} can redirect the write with a link. If a service has changed "
        "the folder, its container may have been attacked.",
        "Find the folder's owner with `homelab ssh {host} -- namei -l PATH`. Remove the link, or give the folder to "
        f"root, {_AGAIN}.",
    ),
    KnownError(
        r"No space left on device|Disk quota exceeded|You don't have enough free space|"
        r"tar: .*: Wrote only \d+ of \d+ bytes",
        "The disk of {host} is full.",
        "See `homelab ssh {host} -- df -h`. Give it a larger `disk` in the inventory and run `homelab up`, "
        f"or remove files there, {_AGAIN}.",
        lasting=True,
    ),
    KnownError(
        r"ERROR:  changed by hand: (column|constraint) (raw|upkeep)\.",
        "A column or a constraint of a table was dropped or changed by hand. Homelab changes no existing table: it "
        "cannot bring back dropped values.",
        "Restore the table from a dump (docs/how-to/backup.md). Or change it back, or drop it to get an empty one: "
        f"`homelab ssh {{host}} -- runuser -u postgres -- psql project_data`, {_AGAIN}.",
    ),
    KnownError(
        r"Read-only file system",
        "The disk of {host} is read-only: the node has made it so, as it does after a disk error.",
        f"Check the log of the node (`dmesg`) and its storage, {_AGAIN}.",
        lasting=True,
    ),
    KnownError(
        r"is not valid yet|[Cc]ertificate is not yet valid|NotValidYet|[Cc]ertificate has expired|"
        r"Release file .* is expired|CertExpired",
        "A certificate or signature is too new or too old for the clock of {host}, which is the clock of its node.",
        f"Compare `homelab ssh {{host}} -- date -u` with the real time; set the node's clock (chrony), {_AGAIN}.",
    ),
    # Before the next one: libpq and asyncpg also report that a certificate's verification failed.
    KnownError(
        r"server does not support SSL, but SSL was required|rejected SSL upgrade|SSL error: certificate verify failed|"
        r"server certificate for .* does not match host name",
        "{host} reached a server that shows no certificate of the lab's CA for its address, and sent it no password. "
        "Either its certificate is from before a change of the CA, the name, or the address, or another machine "
        "answers at its address.",
        "Run `homelab deploy` without --limit, which renews the certificates. If that does not help, find the machine "
        "that answers: compare `homelab ssh {host} -- ip neigh` with the MAC addresses on Proxmox.",
    ),
    KnownError(
        r"UnknownIssuer|self[- ]signed certificate|unable to get local issuer certificate|"
        r"[Cc]ertificate verif(y|ication) failed",
        "The server's certificate is signed by a CA that {host} does not know, such as that of your own mirror.",
        f"Name its CA's file under `packages: {{ca_certificates: […]}}` in the inventory, {_AGAIN}.",
    ),
    KnownError(
        r"Hash Sum mismatch|DO NOT MATCH THE HASHES|Hash mismatch for|hash mismatch",
        "A download does not match its hash: a mirror is being updated, or a proxy returns an old or changed file. "
        "Nothing of it was installed.",
        f"Wait a while or empty the proxy's cache, {_AGAIN}.",
    ),
    KnownError(
        r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|signatures couldn't be verified|"
        r"OpenPGP signature verification failed",  # apt 3, on Debian 13
        "The package lists are not signed by a key that {host} trusts.",
        f"Do not force it: find the source with `homelab ssh {{host}} -- apt-get update`, {_AGAIN}.",
    ),
    KnownError(
        r"Temporary failure (in name resolution|resolving)|Could not resolve|Name or service not known|dns error|"
        r"failed to lookup address",
        "{host} cannot resolve names: it has no network, or its name servers do not answer.",
        "Check `gateway`, `vlan` and `nameservers` in the inventory, and "
        f"`homelab ssh {{host}} -- getent hosts example.org`, {_AGAIN}.",
    ),
    KnownError(
        r"Network is unreachable|No route to host",
        "{host} has no route to that address.",
        f"Check `gateway` and `vlan` in the inventory, and `homelab ssh {{host}} -- ip route`, {_AGAIN}.",
    ),
    KnownError(
        r"[Cc]ould not get lock|Unable to acquire the dpkg frontend lock|Unable to lock directory",
        "Another package manager is running in {host} and did not end in time.",
        f"Find it with `homelab ssh {{host}} -- ps axf`, let it end, {_AGAIN}.",
    ),
    KnownError(
        r"[Aa]ddress already in use|EADDRINUSE",
        "Another process in {host} already listens on that port.",
        f"Find it with `homelab ssh {{host}} -- ss -ltnp`; stop it or give the service another port, {_AGAIN}.",
        lasting=True,
    ),
    KnownError(
        r"Could not process rule|cache initialization failed",
        "nftables does not work in {host}, so the ports that it closes with nftables are open to the LAN.",
        "Set `firewall: true` for {host}: the node then closes them (docs/how-to/firewall.md). Correct nftables: "
        f"`homelab ssh {{host}} -- nft list ruleset`, {_AGAIN}.",
    ),
    KnownError(
        r"Out of memory|Cannot allocate memory|MemoryError|oom-kill",
        "{host} has run out of memory.",
        f"Give it more `memory` or `swap` in the inventory, run `homelab up`, {_AGAIN}.",
    ),
    KnownError(
        r"\bKilled\b",
        "A process was killed with SIGKILL: by the kernel because {host} had no memory left, or by another user.",
        f"Give it more `memory` or `swap` in the inventory, run `homelab up`, {_AGAIN}.",
    ),
    KnownError(
        r"python3: (not found|No such file or directory)",
        "{host} has no Python.",
        f"Run `homelab ssh {{host}} -- apt-get install --reinstall python3-minimal`, {_AGAIN}.",
    ),
    KnownError(
        r"Failed to fetch|Unable to connect to|does not have a Release file|error sending request|"
        r"Could not connect to|No matching distribution found|not found in the package registry",
        "A mirror or proxy does not deliver a file: it is down, or refuses {host}.",
        f"Try the address above from the container; wait, or set another mirror under `packages` in the inventory, "
        f"{_AGAIN}.",
    ),
    KnownError(
        r"dpkg: error processing (package|archive)",
        "dpkg could not configure a package in {host}: its message above names the package and the reason.",
        "If the reason does not help, reinstall that package: `homelab ssh {host} -- apt-get install --reinstall "
        f"PACKAGE`, {_AGAIN}.",
    ),
    KnownError(
        r"Unable to locate package|has no installation candidate|Version '.*' for '.*' was not found",
        "The package, or its pinned version, is not in the package sources of {host}.",
        f"See `homelab ssh {{host}} -- apt-cache policy PACKAGE`; correct the pin or the sources, {_AGAIN}.",
    ),
)


def known_error(text: str) -> KnownError | None:
    """Return the known error of a command's output, or None."""
    return next((known for known in KNOWN_ERRORS if re.search(known.pattern, text)), None)


def explain(text: str, host: str) -> tuple[str, str] | None:
    """Return the cause and the resolution for a command's output, or None if no known error matches."""
    known = known_error(text)
    return known.on(host) if known else None
