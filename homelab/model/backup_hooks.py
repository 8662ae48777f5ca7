"""The commands of a service around backups and restores of its container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHooks:
    """Commands around a backup of a service's container, and after a restore: shell text for root, safe to repeat.

    `before` prepares the data, such as a dump in a data folder; its failure prevents the backup. `after` runs after the
    backup, even a failed one. `restored` runs once in a restored container, as soon as it answers.
    """

    before: Sequence[str] = ()
    after: Sequence[str] = ()
    restored: Sequence[str] = ()
