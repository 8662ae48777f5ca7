"""The steps of the services' database grants: schemas with their owners, and the privileges of roles in schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model import DatabaseGrant, Step
from homelab.steps import Sql
from homelab.steps.postgres_objects import PSQL

_WRITES = ("insert", "update", "delete", "truncate")
_GRANT, _REVOKE = ("grant", "to"), ("revoke", "from")


@dataclass(frozen=True, slots=True)
class AppendRights:
    """Further privileges of a role that appends to a schema: functions it may execute, tables it may update.

    They are in another schema, which the role may use. `read_only` are tables of the grant's schema to which it does
    not append.
    """

    schema: str
    functions: Sequence[str] = ()
    updates: Sequence[str] = ()
    read_only: Sequence[str] = ()


def schema_of(grant: DatabaseGrant, command: str = PSQL) -> Sql:
    """Return the step for a schema that belongs to a role."""
    role, schema = grant.role, grant.schema
    return Sql(
        f"schema {schema} of {grant.database}",
        f"select pg_get_userbyid(nspowner) = '{role}' and has_database_privilege('{role}', current_database(), "
        f"'connect, temporary') from pg_namespace where nspname = '{schema}'",
        "\n".join(
            [
                f"create schema if not exists {schema} authorization {role};",
                f"alter schema {schema} owner to {role};",
                f"grant connect, temporary on database {grant.database} to {role};",
            ]
        ),
        grant.database,
        command,
    )


def monitoring_grant(grant: DatabaseGrant, command: str = PSQL) -> Sql:
    """Return the step that allows a role to read the server's statistics and settings, but no table."""
    role, database = grant.role, grant.database
    return Sql(
        f"grants: {role} may monitor the server",
        f"select pg_has_role('{role}', 'pg_monitor', 'usage') and has_database_privilege('{role}', '{database}', "
        "'connect')",
        f"grant pg_monitor to {role};\ngrant connect on database {database} to {role};\n",
        database,
        command,
    )


def grants(
    grant: DatabaseGrant,
    command: str = PSQL,
    *,
    owner: str = "postgres",
    further: AppendRights | None = None,
    temporary: bool = False,
    after: Sequence[Step] = (),
) -> Sql:
    """Return the step that allows a role to read a schema, or to read and append; applied again after `after`.

    `owner` is the role that creates tables in the schema. A role that only reads loses the `further` privileges, and
    that for temporary tables unless another grant in this database gives it (`temporary`).
    """
    role, schema, can_append = grant.role, grant.schema, grant.privilege == "append"
    granted = ("select", "insert") if can_append else ("select",)
    read_only = further.read_only if further and can_append else ()
    table_check = _table_check(role, granted)
    if read_only:
        tables_read = ", ".join(f"to_regclass('{each}')" for each in read_only)
        table_check = f"case when oid in ({tables_read}) then {_table_check(role, ['select'])} else {table_check} end"
    # A role that appends uses a temporary table for staging.
    uses_temporary = can_append or temporary
    has_temporary = f"has_database_privilege('{role}', current_database(), 'temporary')"
    checks = [
        has_temporary if uses_temporary else f"not {has_temporary}",
        *(each if can_append else f"not {each}" for each in _further_checks(role, further)),
    ]
    done = (
        f"select has_database_privilege('{role}', current_database(), 'connect') "
        f"and has_schema_privilege('{role}', '{schema}', 'usage') "
        f"and not has_schema_privilege('{role}', '{schema}', 'create') "
        f"and {' and '.join(checks)} "
        f"and coalesce(bool_and({table_check}), true) "
        f"from pg_class where relnamespace = to_regnamespace('{schema}') and relkind in ('r', 'p')"
    )
    tables, defaults = ", ".join(granted), f"alter default privileges for role {owner} in schema {schema}"
    verb, to = _GRANT if can_append else _REVOKE
    temporary_verb, temporary_to = _GRANT if uses_temporary else _REVOKE
    sql = "\n".join(
        [
            "begin;",  # in one transaction, as the query does not check the default privileges
            f"grant connect on database {grant.database} to {role};",
            f"revoke all on schema {schema} from {role};",
            f"grant usage on schema {schema} to {role};",
            f"revoke all on all tables in schema {schema} from {role};",
            f"grant {tables} on all tables in schema {schema} to {role};",
            *(f"revoke insert on {each} from {role};" for each in read_only),
            f"{defaults} revoke all on tables from {role};",
            f"{defaults} grant {tables} on tables to {role};",
            f"{temporary_verb} temporary on database {grant.database} {temporary_to} {role};",
            *(f"{verb} {each} {to} {role};" for each in _further_privileges(further)),
            "commit;",
        ]
    )
    title = f"grants: {role} may {grant.privilege} {grant.target}"
    return Sql(title, done, sql, grant.database, command, triggered_by=after)


def _table_check(role: str, granted: Sequence[str]) -> str:
    """Return the condition that a role has exactly these privileges on a table of pg_class."""
    return " and ".join(
        [
            *(f"has_table_privilege('{role}', oid, '{each}')" for each in granted),
            *(f"not has_table_privilege('{role}', oid, '{each}')" for each in _WRITES if each not in granted),
        ]
    )


def _further_checks(role: str, further: AppendRights | None) -> Sequence[str]:
    if further is None:
        return ()
    return (
        *(f"has_function_privilege('{role}', to_regprocedure('{each}'), 'execute')" for each in further.functions),
        f"has_schema_privilege('{role}', '{further.schema}', 'usage')",
        *(f"has_table_privilege('{role}', to_regclass('{each}'), 'update')" for each in further.updates),
    )


def _further_privileges(further: AppendRights | None) -> Sequence[str]:
    if further is None:
        return ()
    return (
        f"usage on schema {further.schema}",
        *(f"update on {each}" for each in further.updates),
        *(f"execute on function {each}" for each in further.functions),
    )
