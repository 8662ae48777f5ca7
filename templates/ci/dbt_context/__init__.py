"""The part of dbt's context that sqlfluff lacks: a first build, without any existing relation."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context


@pass_context
def dispatch(context: Context, name: str) -> Callable[..., Any]:
    """Return DuckDB's version of a macro."""
    macro: Callable[..., Any] = context.resolve(f"duckdb__{name}")
    return macro


def _fail(message: str) -> None:
    raise ValueError(message)


adapter = SimpleNamespace(dispatch=dispatch)
exceptions = SimpleNamespace(raise_compiler_error=_fail)
execute = False
flags = SimpleNamespace(FULL_REFRESH=False)
target = SimpleNamespace(database="warehouse", schema="main")


def env_var(_: str, default: str = "") -> str:
    """Return the default."""
    return default


def load_relation(_: object) -> None:
    """Return no relation."""


def var(_: str, default: object = 1) -> object:
    """Return the default, or a number."""
    return default
