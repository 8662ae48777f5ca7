"""Create Superset's roles, its two users, and a connection for each pipeline, from JSON on standard input.

Everything else in Superset stays as it is. Safe to repeat.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from superset.app import create_app

VIEWER = "Viewer"  # a role
# A viewer opens dashboards and charts. These two store the state of filters for shared links.
STATE = frozenset({"DashboardFilterStateRestApi", "ExploreFormDataRestApi"})
READS = frozenset(
    {"can_read", "can_get", "can_time_range", "can_dashboard", "can_dashboard_permalink", "can_explore"}
    | {"can_explore_json", "can_fetch_datasource_metadata", "can_view_chart_as_table", "can_drill", "can_csv"}
    | {"can_get_drill_info", "can_language_pack", "can_log", "can_recent_activity", "can_userinfo"}
)
VIEWS_OF_OTHERS = frozenset({"SavedQuery", "Query", "SQLLab", "SqlLab", "ReportSchedule", "RowLevelSecurity"})


def main() -> None:
    """Apply the description."""
    wanted = json.load(sys.stdin)
    app = create_app()
    with app.app_context():
        from superset import db, security_manager
        from superset.extensions import appbuilder

        appbuilder.add_permissions(update_perms=True)
        security_manager.sync_role_definitions()
        connections = [_connection(db.session, **each) for each in wanted["connections"]]
        _remove_others(db.session, wanted["folders"], [each.uuid for each in connections])
        db.session.commit()
        _set_viewer(security_manager, connections)
        for name, user in wanted["users"].items():
            _set_user(security_manager, name, **user)
        db.session.commit()


def _connection(session: Any, uuid: str, name: str, uri: str, extra: Mapping[str, Any]) -> Any:
    """Return the connection to a published file."""
    from superset.models.core import Database

    found = session.query(Database).filter_by(uuid=uuid).one_or_none()
    if found is None:
        found = Database(uuid=uuid)
        session.add(found)
    found.database_name, found.extra = name, json.dumps(extra)
    found.set_sqlalchemy_uri(uri)
    found.expose_in_sqllab, found.cache_timeout = True, None
    found.allow_run_async = found.allow_ctas = found.allow_cvas = found.allow_dml = found.allow_file_upload = False
    session.flush()
    return found


def _remove_others(session: Any, folders: Sequence[str], wanted: Sequence[Any]) -> None:
    """Remove the connections of pipelines that left the inventory, except those with datasets."""
    from superset.connectors.sqla.models import SqlaTable
    from superset.models.core import Database

    for each in session.query(Database).all():
        ours = any(each.sqlalchemy_uri.startswith(f"duckdb:///{folder}/") for folder in folders)
        in_use = session.query(SqlaTable).filter_by(database_id=each.id).count()
        if ours and each.uuid not in wanted and not in_use:
            session.delete(each)


def _set_viewer(manager: Any, connections: Sequence[Any]) -> None:
    """Give the role Gamma's permissions to read, and access to the connections."""
    permissions = [each for each in manager.find_role("Gamma").permissions if _reads(each)]
    for each in connections:
        permissions.append(manager.add_permission_view_menu("database_access", each.perm))
    role = manager.find_role(VIEWER) or manager.add_role(VIEWER)
    role.permissions = permissions


def _reads(permission: Any) -> bool:
    name, view = permission.permission.name, permission.view_menu.name
    if view in STATE:
        return True
    if name == "menu_access":
        return view in ("Home", "Dashboards", "Charts")
    return name in READS and view not in VIEWS_OF_OTHERS


def _set_user(manager: Any, name: str, last_name: str, role: str, password: str) -> None:
    """Create a user with exactly one role, or set its password."""
    roles = [manager.find_role(role)]
    user = manager.find_user(name)
    if user is None:
        email = f"{name}@example.org"
        if not manager.add_user(name, "Homelab", last_name, email, roles, password=password):
            sys.exit(f"Cannot create the user {name}")
        return
    user.roles, user.active = roles, True
    manager.reset_password(user.id, password)


if __name__ == "__main__":
    main()
