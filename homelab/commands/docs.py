"""`homelab docs`: the dbt project's documentation, made where the warehouse is, and fetched."""

from __future__ import annotations

from homelab.commands.deploy import connect
from homelab.host import argv, check
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory, SecretStore
from homelab.progress import Progress
from homelab.services.analytics import SCRIPTS, as_analytics

_DEADLINE = 900.0  # seconds; it waits for a build that is going on


def fetch(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts, progress: Progress) -> bytes:
    """The page, one file of HTML that stands alone. Raises HomelabError when dbt cannot make it."""
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    # dbt's role only reads, as in a build.
    command = as_analytics(
        'PGUSER="$DBT_PGUSER" PGPASSWORD="$DBT_PGPASSWORD" '
        + argv("python", f"{SCRIPTS}/document.py")
        + " >&2 && cat docs.html"
    )
    with connect(container, key, known_hosts) as host, progress.step(container.name, "dbt docs generate"):
        return check(host, command, "making the documentation", timeout=_DEADLINE).stdout
