"""The backup hooks of services: run in their container before and after a backup, and after a restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, TypeVar

from homelab.errors import HomelabError
from homelab.host import CommandFailed, Host, argv, check
from homelab.model import Container
from homelab.runtime.connections import BOOT_DEADLINE
from homelab.runtime.session import Session
from homelab.services.node_exporter import LAST_BACKUP
from homelab.steps import remote_paths
from homelab.steps.locking import LockedHost

T = TypeVar("T")
Moment = Literal["before", "after", "restored"]
_ACTIONS = {"before": "prepare the backup of", "after": "finish the backup of", "restored": "restore the data of"}
_DEADLINE = 10.0  # seconds until a running container answers
_TIMEOUT = 3600.0  # seconds for one command: a dump reads all data


def with_hooks(session: Session, container: Container, back_up: Callable[[], T]) -> T:
    """Run the hooks of a running container around its backup. Raises HomelabError.

    A failed hook `before` prevents the backup. The hooks `after` run in any case; their failure follows a backup that
    exists.
    """
    try:
        _run(session, container, "before")
        made = back_up()
    except HomelabError:
        with suppress(HomelabError):  # the first error is the cause
            _run(session, container, "after")
        raise
    try:
        _run(session, container, "after")
    except HomelabError as error:
        error.details = f"{error.details}\nThe backup itself exists: `homelab backup --list {container.name}`."
        raise
    return made


def record_backup(session: Session, container: Container, *, booting: bool) -> None:
    """Record the time of a backup in its running container, if the container has node_exporter.

    Only a note reports a failure: the backup exists. With `booting`, the backup has just started the container.
    """
    if "node_exporter" not in container.services:
        return
    try:
        with session.connect(container, BOOT_DEADLINE if booting else _DEADLINE) as host:
            check(host, f"mkdir -p {remote_paths.STATE} && touch {LAST_BACKUP}", "record the backup")
    except HomelabError as error:
        session.progress.note(container.name, f"Cannot record the time of the backup: {error.brief}")


def finish_restore(session: Session, container: Container, volid: str) -> None:
    """Wait until a restored container answers, run the hooks `restored`, and record the backup. Raises HomelabError.

    The record is in the container; the hooks run once for each restore.
    """
    with session.connect(container, BOOT_DEADLINE) as connection:
        host = LockedHost(connection, session.progress)
        path = f"{remote_paths.STATE}/restored"
        if host.run(argv("cat", path)).text == volid:
            return
        _run_on(session, host, container, "restored")
        check(host, f"mkdir -p {remote_paths.STATE} && cat >{path}", "record the restore", stdin=volid.encode())


def has_hooks(container: Container, moment: Moment) -> bool:
    """Check that a service of the container has commands for this moment."""
    return any(_commands(container, moment))


def _run(session: Session, container: Container, moment: Moment) -> None:
    if has_hooks(container, moment):
        with session.connect(container, BOOT_DEADLINE) as connection:  # `--mode stop` has started it just now
            _run_on(session, LockedHost(connection, session.progress), container, moment)


def _run_on(session: Session, host: Host, container: Container, moment: Moment) -> None:
    for service, command in _commands(container, moment):
        with session.progress.step(container.name, f"{_ACTIONS[moment]} {service}"):
            try:
                check(host, command, f"{_ACTIONS[moment]} {service}", timeout=_TIMEOUT)
            except CommandFailed as error:
                error.resolution = (
                    "Fix the cause, and run the same command again. If the service was never deployed, run `homelab "
                    f"deploy --limit {container.name}` first."
                )
                raise


def _commands(container: Container, moment: Moment) -> Iterator[tuple[str, str]]:
    for name, service in container.services.items():
        for command in getattr(service.backup_hooks(), moment):
            yield name, command
