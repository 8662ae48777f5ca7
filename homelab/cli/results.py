"""Results on standard output, as JSON or as text; light enough to import before any verb runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import typer

from homelab.cli.hints import typed
from homelab.errors import HomelabError
from homelab.terminal import printable


def print_result(result: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print a result as JSON, or by the function that prints it as text."""
    if as_json:
        print_json(result)
    else:
        text()


def print_json(result: Any) -> None:
    """Print a result as JSON."""
    typer.echo(_json(result, indent=2))


def print_json_line(result: Any) -> None:
    """Print a result as JSON on one line, for results that follow each other."""
    typer.echo(_json(result))


def _json(result: Any, indent: int | None = None) -> str:
    """Return a result as JSON; unpaired surrogates, which have no encoding, as escapes."""
    text = json.dumps(to_json(result), indent=indent, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()


def echo(text: object, err: bool = False) -> None:
    """Print a text for people: without unsafe characters, and with complete commands."""
    typer.echo(printable(typed.complete(str(text))), err=err)


def print_error(error: HomelabError) -> None:
    """Print an error on standard error."""
    from homelab.cli.output import show_error

    show_error(error)


def to_json(value: Any) -> Any:
    """Convert a value to JSON's types: dataclasses by field, errors by part, anything else by its text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case HomelabError():
            return {"brief": value.brief, "details": value.details, "resolution": typed.complete(value.resolution)}
        case dict():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(item) for item in value]
    if is_dataclass(value) and not hasattr(value, "apply"):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    return str(value)
