"""Superset's metadata in PostgreSQL: its migration, its users, and its connections to the published files.

Each pipeline that publishes a file has one connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from homelab.model import ServiceContext, Step
from homelab.model.dashboards import connection_uuid
from homelab.pipelines.layout import FOLDER
from homelab.pipelines.published_files import COPIES, publishing, readable_file
from homelab.sandbox import Sandbox
from homelab.services.monitoring import SETTINGS
from homelab.services.password_stamp import Stamp, password_stamp
from homelab.steps import Command, File, Upgrade, Venv
from homelab.steps.queries import Query, psql_with

DATABASE, ROLE = "superset_metadata", "superset"
CLI = "/usr/local/sbin/homelab-superset"  # Superset's command line, as its user and with its limits
ADMIN, VIEWER = "superset-admin", "superset-viewer"  # the secrets with the passwords
UNIT = "superset.service"
CLIENT = f"{SETTINGS}/superset-database.env"  # the environment of psql
# A query in a chart or in SQL Lab reads this file only, and does not fill the memory of the container.
_EXTRA = {
    "engine_params": {
        "connect_args": {
            "read_only": True,
            "config": {
                "memory_limit": "256MB",
                "threads": 2,
                "enable_external_access": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "lock_configuration": True,
            },
        }
    },
    "metadata_params": {},
    "allows_virtual_table_explore": True,
}


def connections(context: ServiceContext) -> Sequence[Mapping[str, Any]]:
    """Return the connections, one for each pipeline that publishes a file."""
    inventory = context.inventory
    return [
        {
            "uuid": connection_uuid(pipeline.name),
            "name": pipeline.name,
            "uri": f"duckdb:///{readable_file(inventory, context.container, pipeline)}",
            "extra": _EXTRA,
        }
        for pipeline in publishing(inventory)
    ]


def in_metadata(sql: str) -> Query:
    """Return shell text that runs SQL in the metadata database."""
    return Query(psql_with(CLIENT), DATABASE, sql)


def migration(venv: Venv) -> Step:
    """Return the step that migrates the database to the version of Superset in the venv."""
    upgrade = Upgrade(
        service="superset",
        version=venv.digest,
        after=(f"systemctl stop {UNIT} 2>/dev/null; {CLI} db upgrade",),
        done=[in_metadata("select 1 / count(*) from alembic_version")],  # missing in a database that was created again
    )
    return upgrade.finish(triggered_by=[venv])


def accounts(context: ServiceContext, sandbox: Sandbox, python: str, script: File, migrated: Step) -> Command:
    """Return the step that sets the roles, the users `admin` and `viewer`, and the connections, in one start of Python.

    The passwords are on its standard input.
    """
    found = connections(context)
    secrets = {name: context.secret_store.secret(name).reveal() for name in (ADMIN, VIEWER)}
    users = {
        "admin": {"last_name": "Admin", "role": "Admin", "password": secrets[ADMIN]},
        "viewer": {"last_name": "Viewer", "role": "Viewer", "password": secrets[VIEWER]},
    }
    wanted = {"users": users, "connections": found, "folders": [FOLDER, COPIES]}
    parts = [password_stamp(context, ADMIN), password_stamp(context, VIEWER), json.dumps(found).encode()]
    digest = hashlib.sha256(b"".join([*parts, script.content])).hexdigest()
    command, stdin = sandbox.run(python, "-B", script.path), json.dumps(wanted).encode()
    stamp = Stamp("superset", digest)
    return stamp.command("superset's users and connections", command, stdin, [_present(found)], [migrated])


def _present(found: Sequence[Mapping[str, Any]]) -> Query:
    """Return shell text that succeeds if both users and all connections exist; otherwise it divides by zero."""
    users = "(select count(*) from ab_user where username in ('admin', 'viewer') and active) = 2"
    rows = ", ".join(f"('{each['uuid']}', '{each['uri']}')" for each in found)
    matching = f"(select count(*) from dbs where (uuid::text, sqlalchemy_uri) in ({rows})) = {len(found)}"
    return in_metadata(f"select 1 / ({users}{f' and {matching}' if found else ''})::int")
