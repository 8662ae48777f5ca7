"""Probes that are a single SQL query: all of one database go through one psql, as starting one takes longest."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from shlex import quote

from homelab.host import Result

_OPTIONS = "-X -q -A -t"


class Query(str):
    """Shell text that runs one query and prints bare values."""

    __slots__ = ("database", "psql", "sql")
    psql: str
    database: str
    sql: str

    def __new__(cls, psql: str, database: str, sql: str) -> Query:
        """The text, which remembers what it was made of; `psql` is the shell text of the command."""
        self = super().__new__(cls, f"{psql} {_OPTIONS} -v ON_ERROR_STOP=1 -d {quote(database)} -c {quote(sql)}")
        self.psql, self.database, self.sql = psql, database, sql
        return self


def merge_queries(probes: Sequence[str]) -> tuple[list[str], Callable[[Sequence[Result]], list[Result]]]:
    """Fewer commands that ask the same, and what makes of their results those of the probes, in the same order."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, probe in enumerate(probes):
        key = (probe.psql, probe.database) if isinstance(probe, Query) else (str(index),)
        groups.setdefault(key, []).append(index)
    mark = secrets.token_hex(16)
    commands = []
    for indices in groups.values():
        queries = [probe for probe in map(probes.__getitem__, indices) if isinstance(probe, Query)]
        commands.append(_one_psql(mark, queries) if len(queries) > 1 else probes[indices[0]])

    def taken_apart(results: Sequence[Result]) -> list[Result]:
        found: dict[int, Result] = {}
        for indices, result in zip(groups.values(), results, strict=True):
            parts = [result] if len(indices) == 1 else _parts(mark, [probes[index] for index in indices], result)
            found |= zip(indices, parts, strict=True)
        return [found[index] for index in range(len(probes))]

    return commands, taken_apart


def _one_psql(mark: str, queries: Sequence[Query]) -> str:
    """All queries in one session, each on its own: after each, a line says whether there was an error."""
    ended = quote(f"\\echo {mark} :ERROR")
    words = [f"-c {quote(query.sql)} -c {ended}" for query in queries]
    return f"{queries[0].psql} {_OPTIONS} -d {quote(queries[0].database)} {' '.join(words)}"


def _parts(mark: str, queries: Sequence[str], result: Result) -> list[Result]:
    parts: list[Result] = []
    said = b""
    for line in result.stdout.splitlines(keepends=True):
        if line.startswith(mark.encode()):
            parts.append(Result(queries[len(parts)], int(line.split()[1] != b"false"), said))
            said = b""
        else:
            said += line
    # Where psql ended before its time, or did not begin.
    return parts + [Result(query, result.status or 1) for query in queries[len(parts) :]]
