"""Probes that are one SQL query; the queries of one database share one psql, as starting it takes longest."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from shlex import quote

from homelab.host import Result

NO_CONNECTION = 2  # exit status of psql when it has no connection
_OPTIONS = "-X -q -A -t"


def psql_with(environment: str) -> str:
    """Return the beginning of a psql command with the variables of a file.

    If the file is missing, the status is 1. The shell's own status is psql's status for an unreachable server.
    """
    return f"[ -r {environment} ] || exit 1; set -a; . {environment}; psql"


class Query(str):
    """Shell text that runs one query and prints bare values."""

    __slots__ = ("database", "psql", "sql")
    psql: str
    database: str
    sql: str

    def __new__(cls, psql: str, database: str, sql: str) -> Query:
        """Return the shell text, which keeps its parts; `psql` is the shell text that starts psql."""
        self = super().__new__(cls, f"{psql} {_OPTIONS} -v ON_ERROR_STOP=1 -d {quote(database)} -c {quote(sql)}")
        self.psql, self.database, self.sql = psql, database, sql
        return self


def merge_queries(probes: Sequence[str]) -> tuple[list[str], Callable[[Sequence[Result]], list[Result]]]:
    """Return fewer commands that run all probes, and a function that splits their results into one per probe."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, probe in enumerate(probes):
        key = (probe.psql, probe.database) if isinstance(probe, Query) else (str(index),)
        groups.setdefault(key, []).append(index)
    mark = secrets.token_hex(16)  # random, so that no query's output can contain it
    commands = []
    for indices in groups.values():
        queries = [probe for probe in map(probes.__getitem__, indices) if isinstance(probe, Query)]
        commands.append(_one_psql(mark, queries) if len(queries) > 1 else probes[indices[0]])

    def split_results(results: Sequence[Result]) -> list[Result]:
        found: dict[int, Result] = {}
        for indices, result in zip(groups.values(), results, strict=True):
            parts = [result] if len(indices) == 1 else _parts(mark, [probes[index] for index in indices], result)
            found |= zip(indices, parts, strict=True)
        return [found[index] for index in range(len(probes))]

    return commands, split_results


def _one_psql(mark: str, queries: Sequence[Query]) -> str:
    """Return the command that runs all queries in one session and prints a line with :ERROR after each."""
    print_error = quote(f"\\echo {mark} :ERROR")
    words = [f"-c {quote(query.sql)} -c {print_error}" for query in queries]
    return f"{queries[0].psql} {_OPTIONS} -d {quote(queries[0].database)} {' '.join(words)}"


def _parts(mark: str, queries: Sequence[str], result: Result) -> list[Result]:
    parts: list[Result] = []
    output = b""
    for line in result.stdout.splitlines(keepends=True):
        if line.startswith(mark.encode()):
            parts.append(Result(queries[len(parts)], int(line.split()[1] != b"false"), output))
            output = b""
        else:
            output += line
    # Queries that psql did not reach have failed.
    return parts + [Result(query, result.status or 1) for query in queries[len(parts) :]]
