"""Airflow's metadata database: its migration, its admin user, and queries, run from Airflow's container."""

from __future__ import annotations

from homelab.errors import HomelabError
from homelab.host import argv
from homelab.model import Container, ServiceContext, Step
from homelab.render import render
from homelab.services.password_stamp import Stamp, password_stamp
from homelab.steps import Command, Refuse, Upgrade, Venv
from homelab.steps.queries import Query, psql_with

CLI = "/usr/local/sbin/homelab-airflow"  # Airflow's command line, as its user and with its limits
DATABASE, ROLE = "airflow_metadata", "airflow_admin"
DATABASE_ENVIRONMENT = "/etc/homelab/airflow-database.env"
METADATA = psql_with(DATABASE_ENVIRONMENT)
_ADMIN = "airflow-admin"  # the secret with the password


def in_metadata(sql: str) -> Query:
    """Return shell text that runs SQL in Airflow's metadata database."""
    return Query(METADATA, DATABASE, sql)


def last_runs(dag: str) -> Query:
    """Return shell text that prints the last five runs of a DAG as JSON, newest first."""
    return in_metadata(
        "select coalesce(json_agg(r), '[]') from (select run_id, state, start_date, end_date, (select "
        "string_agg(task_id, ', ' order by task_id) from task_instance where dag_id = this.dag_id "
        "and run_id = this.run_id and state = 'failed') as failed_tasks from dag_run as this "
        f"where dag_id = '{dag}' order by start_date desc nulls last limit 5) r"
    )


def is_paused(dag: str) -> Query:
    """Return shell text that prints `t` if a DAG is paused."""
    return in_metadata(f"select is_paused from dag where dag_id = '{dag}'")


def import_errors() -> Query:
    """Return shell text that prints the errors of files of DAGs as a JSON list."""
    return in_metadata(
        "select coalesce(json_agg(reason), '[]') from ("
        "select 'Airflow cannot import ' || filename || ': ' || "
        "right(substring(rtrim(stacktrace, E' \\n') from '[^\\n]*$'), 200) from import_error) as found (reason)"
    )


def metrics() -> Query:
    """Return shell text that prints the state of the scheduler, and of the DAGs with their runs, as metrics."""
    return in_metadata(render("airflow/metrics.sql").decode())


def migration(version: str, venv: Venv) -> Step:
    """Return the step that migrates the database to the version of Airflow in the venv."""
    upgrade = Upgrade(
        service="airflow",
        version=f"{version} ({venv.digest})",
        after=("systemctl stop 'airflow-*'", f"{CLI} db migrate"),
        done=[_row_exists("alembic_version")],  # missing after the database was created again
    )
    return upgrade.finish(triggered_by=[venv])


def no_downgrade(version: str, postgres: Container, *, known: bool) -> Refuse:
    """Return the step that refuses 2.11 on the metadata of 3.x, which 2.11 cannot read.

    The first one, before anything is changed, accepts that the server does not answer yet.
    """
    return Refuse(
        "Airflow keeps its version" if known else "Airflow is not downgraded",
        in_metadata("select to_regclass('public.dag_version') is not null"),
        HomelabError(
            f"Cannot downgrade Airflow to {version}: its metadata are those of 3.x",
            f"They are in the database airflow_metadata of {postgres.name}; Airflow {version} cannot read them.",
            'Write `version: "3.3"` under `airflow:` in the inventory. To go back to 2.11, restore a dump of '
            "airflow_metadata from before the upgrade first.",
        ),
        needs_answer=known,
    )


def admin_user(context: ServiceContext, migrated: Step, has_api_server: bool) -> Command:
    """Return the step that creates the user `admin`, or sets its password."""
    password = context.secret_store.secret(_ADMIN).reveal()
    stamp = Stamp(_ADMIN, password_stamp(context, _ADMIN).hex())
    name = ("--username", "admin", "--firstname", "Home", "--lastname", "Lab")
    create = argv(CLI, "users", "create", *name, "--role", "Admin", "--email", "admin@example.org")
    # `users create` reads the password twice from standard input, which no process list shows. It does not change an
    # existing user, and 2.11.2 has no command that sets a password, so an existing user is deleted first.
    # At every start, the web server writes the permissions of the roles. So does this command, and the two must not run
    # in parallel; from Airflow 3 on it can skip that, and need not wait for the web server.
    skip_roles = "export AIRFLOW__FAB__UPDATE_FAB_PERMS=False; " if has_api_server else ""
    command = (
        f"{skip_roles}if {in_metadata('select 1 from ab_user where username = $$admin$$')} | grep -q 1; "
        f"then {argv(CLI, 'users', 'delete', '--username', 'admin')}; fi && {create}"
    )
    done = [_row_exists("ab_user where username = 'admin'")]
    stdin = f"{password}\n{password}\n".encode()
    return stamp.command("airflow's admin user", command, stdin, done, [migrated])


def _row_exists(table: str) -> Query:
    """Return shell text that succeeds if the table, or the part of it, has a row: otherwise it divides by zero."""
    return in_metadata(f"select 1 / count(*) from {table}")
