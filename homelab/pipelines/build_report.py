"""The report of a build of the marts (data/last_build.json): its failed models and tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failed_nodes(build: Mapping[str, Any]) -> list[str]:
    """Return the failed models and tests of a build, each with dbt's message in one line."""
    return [_describe(problem) for problem in build.get("problems", ()) if problem["status"] in ("error", "fail")]


def _describe(problem: Mapping[str, Any]) -> str:
    # dbt's id of a node is KIND.PROJECT.NAME, and for a generic test with a hash at the end.
    kind, *parts = str(problem["node"]).split(".")
    named = f"{kind} {parts[1]}" if len(parts) > 1 else str(problem["node"])
    return f"{named}: {' '.join(str(problem['message']).split())[:500]}"
