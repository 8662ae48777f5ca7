"""Metabase's jars, its settings, its first user, and its connections to the published files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.local_files import read_within
from homelab.model import ServiceContext, Step
from homelab.model.web_uis import published_url
from homelab.paths import bundled_path
from homelab.pipelines.published_files import publishing, readable_file
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS, Daemon
from homelab.services.password_stamp import Stamp, password_stamp
from homelab.steps import File

DATABASE, ROLE = "metabase_metadata", "metabase"
ADMIN = "metabase-admin"  # the secret with the password
FOLDER, JAR, DRIVER = "/opt/homelab/metabase", "metabase.jar", "duckdb.metabase-driver.jar"
_ENVIRONMENT, _SECRETS = f"{SETTINGS}/metabase.env", f"{SETTINGS}/metabase-secrets.env"
DAEMON = Daemon("metabase", 3001, (_ENVIRONMENT, _SECRETS))  # Metabase's usual port is also Grafana's
_EMAIL = "admin@example.org"  # the name with which the admin logs in
# A query can read this file only, and never fills the memory of the container.
_DETAILS = {"read_only": True, "memory_limit": "256MB", "init_sql": "SET enable_external_access = false"}


def checked_file(path: Path, sha256: str) -> bytes:
    """Return the content of a file. Raises InputError if it cannot be read, or has another SHA-256."""
    content = read_within(path, None)
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(
            f"Cannot deploy metabase: {path} is not the expected file",
            f"Its SHA-256 is {found}, and the inventory has {sha256}.",
            "Download it again, or compare the SHA-256 with its publisher's and correct the inventory.",
        )
    return content


def settings_files(context: ServiceContext) -> Sequence[File]:
    """Return the files with the environment."""
    store = context.secret_store
    settings = render(
        "metabase/metabase.env.j2",
        address=context.container.address,
        port=DAEMON.port,
        url=published_url(context.inventory.containers, "metabase"),
        postgres=context.inventory.container_with("postgres").address,
        database=DATABASE,
        ca_file=CA_FILE,
        home=DAEMON.sandbox.writable[0],
    )
    secrets = render(
        "metabase/secrets.env.j2",
        role=ROLE,
        password=store.secret(f"postgres-{ROLE}").reveal(),
        key=store.secret("metabase-key").reveal(),
    )
    return (File(_ENVIRONMENT, settings, mode=0o600), File(_SECRETS, secrets, mode=0o600, secret=True))


def first_user(context: ServiceContext, sandbox: Sandbox) -> Sequence[Step]:
    """Return the steps that create the admin and the connections; the password is on standard input.

    Until a user exists, Metabase makes its first visitor the admin, and shows the token for that to each visitor.
    """
    script = File(f"{FOLDER}/setup.py", bundled_path("templates/metabase/setup.py").read_bytes())
    wanted = {
        "address": str(context.container.address),
        "port": DAEMON.port,
        "email": _EMAIL,
        "password": context.secret_store.secret(ADMIN).reveal(),
        "connections": _connections(context),
    }
    parts = (password_stamp(context, ADMIN), json.dumps(wanted["connections"]).encode(), script.content)
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    command, stdin = sandbox.run("/usr/bin/python3", "-B", script.path), json.dumps(wanted).encode()
    done = [DAEMON.request("/api/session/properties", '"has-user-setup": *true')]
    applied = Stamp("metabase", digest).command("metabase's admin user and connections", command, stdin, done)
    return (sandbox.file(), script, applied)


def _connections(context: ServiceContext) -> Sequence[Mapping[str, object]]:
    """Return the connections, one for each pipeline that publishes a file."""
    inventory = context.inventory
    return [
        {
            "name": pipeline.name,
            "engine": "duckdb",
            "details": {"database_file": readable_file(inventory, context.container, pipeline), **_DETAILS},
        }
        for pipeline in publishing(inventory)
    ]
