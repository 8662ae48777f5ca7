"""The reference page of the command line, from its commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any


def verbs() -> dict[str, Any]:
    """Return the command line's commands by name, such as `pipeline run`."""
    import typer

    from homelab.cli import app

    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                yield " ".join((*path, name)), command

    return dict(walk(typer.main.get_command(app), ()))


def _global_names() -> set[str]:
    from homelab.cli.global_options import apply_global_options

    return set(inspect.signature(apply_global_options).parameters) | {"help"}


def cli() -> list[str]:
    """Return the lines of the page about the command line."""
    import typer

    from homelab.cli import app

    lines = [
        "# Command line",
        "",
        "This page lists every command with its arguments and options. The option `--help` shows the same.",
        "",
        "## Global options",
        "",
        "These options are understood before and after the command's name.",
        "",
        *_options(typer.main.get_command(app).params, skip={"help"}),
    ]
    shared = _global_names()
    for name, command in verbs().items():
        arguments = [_metavar(each) for each in command.params if each.param_type_name == "argument"]
        usage = " ".join(["homelab", name, "[OPTIONS]", *arguments])
        lines += ["", f"## homelab {name}", "", "```text", usage, "```", ""]
        lines += _paragraphs(inspect.cleandoc(command.help or ""))
        lines += ["", *_options(command.params, shared)]
    return lines


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    many = "..." if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _paragraphs(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        example = re.match(r"Example:\s+(.*)", line)
        found += ["```console", example[1], "```"] if example else [line]
    return found


def _options(params: Any, skip: set[str]) -> list[str]:
    rows = []
    for each in params:
        if each.name in skip or each.name in ("install_completion", "show_completion"):
            continue
        if each.param_type_name == "argument":
            names = f"`{_metavar(each)}`"
        else:
            names = ", ".join(f"`{opt}`" for opt in (*each.opts, *each.secondary_opts))
        rows.append(f"| {names} | {each.help or ''} |")
    return ["| argument, option | meaning |", "| --- | --- |", *rows] if rows else []
