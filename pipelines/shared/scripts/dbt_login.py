"""The login of dbt at PostgreSQL, which only reads."""

from __future__ import annotations

import os
from typing import Any

_PREFIX = "DBT_"


def dbt_login() -> dict[str, str]:
    """Return libpq's variables PGUSER and PGPASSWORD for the role of dbt: DBT_PGUSER and DBT_PGPASSWORD, if set."""
    names = (f"{_PREFIX}PGUSER", f"{_PREFIX}PGPASSWORD")
    return {name.removeprefix(_PREFIX): os.environ[name] for name in names if name in os.environ}


def dbt_keywords() -> dict[str, Any]:
    """Return the same login as keywords of psycopg.connect."""
    return {name.removeprefix("PG").lower(): value for name, value in dbt_login().items()}
