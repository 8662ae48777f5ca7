"""The environment of psql in a container whose service owns a database."""

from __future__ import annotations

from homelab.model import ServiceContext
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import File


def client_file(context: ServiceContext, path: str, database: str, role: str) -> File:
    """Return the step for the environment with which psql connects to a database as a role."""
    content = render(
        "postgres/client.env.j2",
        postgres=context.inventory.container_with("postgres").address,
        database=database,
        role=role,
        password=context.secret_store.secret(f"postgres-{role}").reveal(),
        ca_file=CA_FILE,
    )
    return File(path, content, mode=0o600, secret=True)
