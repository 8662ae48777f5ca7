"""`homelab query`: SQL on the published marts, where they are; a shell over there, if no SQL is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from homelab.commands.deploy import connect
from homelab.errors import HomelabError, InputError
from homelab.host import Result, argv
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory, SecretStore
from homelab.runtime.ssh_client import ssh_argv
from homelab.secrets import FileSecretStore
from homelab.services.analytics import PUBLISHED, SCRIPTS, as_analytics

_DEADLINE = 600  # seconds
# Exit statuses of query.py: DuckDB refuses the SQL; no build has been published yet.
_REFUSED, _NOT_PUBLISHED = 1, 3


def shell_argv(
    inventory: Inventory, secret_store: FileSecretStore, known_hosts: KnownHosts, form: str, terminal: bool
) -> list[str]:
    """The words that run the shell over OpenSSH's client; without a terminal it reads statements from the input."""
    name = inventory.container_with("analytics").name
    command = as_analytics(argv("python", f"{SCRIPTS}/query.py", "--database", PUBLISHED, "--format", form))
    ssh, *words = ssh_argv(inventory, name, [command], secret_store, known_hosts)
    return [ssh, *(["-t"] if terminal else []), *words]


def query(
    inventory: Inventory, sql: str, *, secret_store: SecretStore, known_hosts: KnownHosts
) -> Sequence[dict[str, Any]]:
    """The rows of one statement. Raises InputError for SQL that DuckDB refuses."""
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    with connect(container, key, known_hosts) as host:
        # Ended over there as well: it would go on when nobody waits any more.
        result = host.run(
            as_analytics(
                argv(
                    "timeout",
                    str(_DEADLINE),
                    "python",
                    f"{SCRIPTS}/query.py",
                    "--database",
                    PUBLISHED,
                    "--format",
                    "json",
                    "--",
                    sql,
                )
            ),
            timeout=_DEADLINE + 10,
        )
    return parse_rows(
        result,
        container.name,
        mend="Run `homelab deploy`, which puts everything there in order.",
        wait="Wait for the next hourly run, or see `homelab status` for what keeps it.",
    )


def parse_rows(result: Result, where: str, *, wait: str, mend: str) -> Sequence[dict[str, Any]]:
    """What query.py has answered. Raises InputError for SQL that DuckDB refuses, else HomelabError with the way out."""
    if result.status == _NOT_PUBLISHED:
        raise HomelabError("There are no marts yet", "No build of the pipeline has been published.", wait)
    said = result.stderr.decode(errors="replace").strip()
    if result.status == _REFUSED and said.startswith("error: "):
        raise InputError(
            "DuckDB refuses the query",
            said.removeprefix("error: ")[:1500],
            'The tables: homelab query "show all tables"',
        )
    if not result.ok:
        raise HomelabError(
            f"{where}: the query could not be run", said[-1500:] or f"It ended with status {result.status}.", mend
        )
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows
