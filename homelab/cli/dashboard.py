"""Verb for dashboards as code."""

from __future__ import annotations

import typer

from homelab.cli.confirmation import confirm_lines
from homelab.cli.global_options import Json, PipelineArgument, Yes, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    dashboard = typer.Typer(no_args_is_help=True, help="Dashboards of the pipelines, as files.")
    add_verb(dashboard, export)
    app.add_typer(dashboard, name="dashboard")


def export(pipeline: PipelineArgument = None, yes: Yes = False, as_json: Json = False) -> None:
    """Write the dashboards of a pipeline from Superset to its folder `dashboards/`.

    Exports each published dashboard that reads only the pipeline's tables, with its charts and datasets. Asks before it
    changes or removes a file.

    Example:  homelab dashboard export weather
    """
    from homelab.commands.dashboard_export import prepare_export

    session = settings.session()
    prepared = prepare_export(session, pipeline)
    folder, lines = prepared.changes.folder, [str(each) for each in prepared.changes.changes]
    if prepared.overwrites and not confirm_lines(f"Write these files to {folder}?", yes)(lines):
        raise typer.Exit(1)
    outcome = prepared.write(session)

    def text() -> None:
        for line in lines:
            echo(line)
        for title, reason in outcome.left_out.items():
            echo(f"left out: {title}: {reason}")
        echo(f"{folder}: {len(lines)} files changed, {outcome.unchanged} unchanged")

    print_result(outcome, as_json, text)
