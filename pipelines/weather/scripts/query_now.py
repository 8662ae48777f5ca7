"""Query the newest readings in PostgreSQL: `query_now.py SQL` prints the rows of one statement as JSON.

The statement reads with the role of dbt, for at most half a minute; the view is weather_now. The connection comes from
libpq's variables; DBT_PGUSER and DBT_PGPASSWORD, if set, replace PGUSER and PGPASSWORD.

Exit status: 0 success, 1 PostgreSQL cannot be reached, 8 it refuses the statement.
"""

from __future__ import annotations

import json
import sys

import psycopg
from contract import EXIT, Parser
from dbt_login import dbt_keywords
from json_rows import to_json, unique_names

_OPTIONS = "-csearch_path=raw -cstatement_timeout=30s -cdefault_transaction_read_only=on -ctimezone=UTC"


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = Parser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("sql")
    sql = parser.parse_args().sql
    try:
        connection = psycopg.connect(**dbt_keywords(), options=_OPTIONS, application_name="homelab_query")
    except psycopg.Error as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    with connection:
        try:
            connection.autocommit = True
            # A prepared statement is exactly one.
            answer = connection.execute(sql.encode(), prepare=True)
            columns = unique_names([column.name for column in answer.description or ()])
            rows = answer.fetchall() if columns else []
        except psycopg.Error as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return EXIT.failed if isinstance(error, psycopg.OperationalError) and not error.sqlstate else EXIT.bad_input
        except (ValueError, RecursionError) as error:
            # PostgreSQL's JSON holds numbers of more digits, and more levels, than Python's.
            print(f"error: Cannot read a value: {error}. Cast it to text.", file=sys.stderr)
            return EXIT.bad_input
    print(json.dumps([dict(zip(columns, map(to_json, row), strict=True)) for row in rows], ensure_ascii=False))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
