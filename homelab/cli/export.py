"""Verbs that write the stack in other forms."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from homelab.cli.global_options import Json, add_verb, settings
from homelab.cli.hints import typed
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    export = typer.Typer(no_args_is_help=True, help="Write the stack of the inventory in another form.")
    add_verb(export, kubernetes)
    app.add_typer(export, name="export")


def kubernetes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or that of an earlier export.")],
    registry: Annotated[str, typer.Option(help="Prefix of the images, such as registry.home.arpa:5000/lab.")] = "",
    as_json: Json = False,
) -> None:
    """Write Kubernetes manifests of PostgreSQL and the pipelines, and a Dockerfile for each image.

    It connects to nothing, and writes no secret into the folder: it prints the commands that hand them over. It names
    the services that are not exported.

    Example:  homelab export kubernetes k8s --registry registry.home.arpa:5000/lab
    """
    from homelab.commands.export_kubernetes import export_kubernetes

    homelab = shlex.join(["homelab", *typed.selection])
    written = export_kubernetes(settings.session(), folder, registry, homelab)

    def text() -> None:
        echo(f"written: {len(written.files)} files in {written.folder}")
        for each in written.not_exported:
            echo(f"not exported: {each}")
        echo("\nNext, in this order:\n")
        for command in written.commands:
            echo(command)

    print_result(written, as_json, text)
