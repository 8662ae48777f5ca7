"""The command line of the scripts that exclude rows from the marts: `list`, `count`, `add` and `revoke`."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg
from contract import EXIT, Parser
from psycopg.rows import dict_row

Connection = psycopg.Connection[dict[str, Any]]
Command = Callable[[Connection, Mapping[str, Any]], object]  # with the options by name
_LONGEST = 1000  # characters of a text


class ExclusionError(Exception):
    """The options name nothing that can be excluded or revoked."""


def text_option(printable: Callable[[str], str]) -> Callable[[str], str]:
    """Return the type of an option with a text that is not empty, in printable characters."""

    def _text(given: str) -> str:  # argparse's error names it
        if not given.strip():
            raise ValueError
        return printable(given.strip())[:_LONGEST]

    return _text


def options_parser(document: str | None, text: Callable[[str], str]) -> tuple[Parser, Mapping[str, ArgumentParser]]:
    """Return the parser, and that of each command: with the period, the number, and the reason, but no selection."""
    parser = Parser(description=(document or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in ("list", "count", "add", "revoke")}
    for name in ("count", "add"):
        parsers[name].add_argument("--from", dest="first", type=_time, required=True)
        parsers[name].add_argument("--to", dest="until", type=_time, required=True)
    parsers["revoke"].add_argument("--id", type=int, required=True)
    for name in ("add", "revoke"):
        parsers[name].add_argument("--reason", type=text, required=True)
        parsers[name].add_argument("--by", type=text, required=True)
    return parser, parsers


def require_period(options: Mapping[str, Any]) -> None:
    """Raise ExclusionError for a period that ends before it begins."""
    if options["first"] >= options["until"]:
        raise ExclusionError("--from must be before --to")


def run(application: str, commands: Mapping[str, Command], options: Mapping[str, Any]) -> int:
    """Run a command, print its answer as JSON, and return the exit status."""
    try:
        with psycopg.connect("", application_name=application, row_factory=dict_row) as connection:
            connection.execute("set timezone = 'UTC'")
            answer = commands[options["command"]](connection, options)
    except ExclusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    except psycopg.Error as error:
        print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(answer, default=lambda time: time.isoformat()))
    return EXIT.success


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
