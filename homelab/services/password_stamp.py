"""Stamps of passwords in containers, by which a deploy notices another password."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model import ManagedResource, ServiceContext, Step
from homelab.steps import Command

STAMPS = "/var/lib/homelab"  # the folder of the stamps


def password_stamp(context: ServiceContext, name: str) -> bytes:
    """Return the stamp of a secret: 32 bytes, the same at each deploy.

    No container has its key: a plain hash would let the container's users guess a short password.
    """
    store = context.secret_store
    return hmac.digest(store.secret("stamps").reveal().encode(), store.secret(name).reveal().encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The digest of a command's input, in a file of the folder STAMPS after the command has run."""

    name: str
    digest: str  # hexadecimal

    def command(
        self, title: str, command: str, stdin: bytes, done: Sequence[str] = (), triggered_by: Sequence[Step] = ()
    ) -> Command:
        """Return the step that runs a command and writes the stamp.

        It is pending with another stamp, or if one of the probes in `done` fails.
        """
        path = f"{STAMPS}/{self.name}"
        return Command(
            title,
            (f"grep -qxs {self.digest} {path}", *done),
            f"{command} && echo {self.digest} >{path}",
            stdin=stdin,
            triggered_by=triggered_by,
            makes=[ManagedResource("made", path)],
        )
