"""Verbs for work on pipelines on this machine, without containers."""

from __future__ import annotations

from contextlib import closing, suppress
from functools import partial
from typing import Annotated

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, PipelineArgument, PipelineOption, Yes, add_verb, settings
from homelab.cli.results import echo, print_error, print_result
from homelab.errors import HomelabError

_Unpublished = Annotated[bool, typer.Option("--unpublished", help="dbt's last build, tested or not.")]


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    dev = typer.Typer(no_args_is_help=True, help="Work on pipelines on this machine, without containers.")
    for verb in (run, query, reset):
        add_verb(dev, verb)
    add_verb(dev, pytest, "test")
    # Everything after dbt's own command is dbt's, global options included.
    dev.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(dbt)
    app.add_typer(dev, name="dev")


def run(
    pipeline: PipelineArgument = None,
    hours: Annotated[int, typer.Option(min=0, max=8000, help="Hours of weather to load; 0: only build.")] = 24,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Rebuild all models.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Run again after each save, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline: fetch, build, test and publish. The weather loads real observations of three cities.

    PostgreSQL and a replay of OpenWeather run on loopback during the command. Their data stays, so the next run is an
    increment. The first run installs what it needs into the inventory's state folder.

    With --watch, the servers stay, and a save of models alone runs only the build; the weather loads no hours.

    Example:  homelab dev run --hours 48

    Example:  homelab dev run prices --watch
    """
    if watch:
        _watch(pipeline, as_json)
        return
    from homelab.cli.output import show_rows
    from homelab.commands.dev import run as run_now
    from homelab.commands.dev import run_own

    session = settings.session()
    chosen = session.inventory.chosen_pipeline(pipeline)
    if not chosen.is_weather:
        own = run_own(session, chosen.name)
        print_result(own, as_json, lambda: echo(own))
        return
    outcome = run_now(session, hours, full_refresh)

    def text() -> None:
        echo(outcome)
        show_rows(outcome.marts)

    print_result(outcome, as_json, text)


def _watch(pipeline: str | None, as_json: bool) -> None:
    from homelab.commands.dev import watch as watch_folder
    from homelab.runtime.interactive import default_interrupt

    session = settings.session()
    with (
        default_interrupt(),
        suppress(KeyboardInterrupt),
        closing(watch_folder(session, pipeline, settings.load)) as runs,
    ):
        for outcome in runs:
            if isinstance(outcome, HomelabError):
                print_error(outcome)
            else:
                print_result(outcome, as_json, partial(echo, outcome))
            echo("Watching for changes; Ctrl-C ends it", err=True)
    settings.stop_progress()
    echo("Stopped", err=True)


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement for DuckDB; default: a shell.")] = None,
    pipeline: PipelineOption = None,
    unpublished: _Unpublished = False,
    as_json: Json = False,
) -> None:
    """Query the marts that `homelab dev run` has published here; without SQL, open a shell.

    Example:  homelab dev query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.cli.pipeline import run_shell, show_result
    from homelab.commands.dev import querier

    session = settings.session()
    run_query = querier(session, unpublished, session.inventory.chosen_pipeline(pipeline).name)
    if sql is None:
        run_shell(run_query, as_json)
        return
    show_result(run_query(sql), as_json)


def dbt(
    words: Annotated[
        list[str], typer.Argument(help="A pipeline, then dbt's command and options.", metavar="[PIPELINE] -- ARGS")
    ],
) -> None:
    """Run dbt on a project with the local PostgreSQL as its source, and exit with its status. Publishes nothing.

    Example:  homelab dev dbt -- build -s weather_daily+

    Example:  homelab dev dbt prices -- build
    """
    from homelab.commands.dev import dbt as run_dbt
    from homelab.commands.dev import dbt_own

    session, (first, *rest) = settings.session(), words
    is_name = first in {pipeline.name for pipeline in session.inventory.pipelines}
    if is_name:
        words = rest[1:] if rest[:1] == ["--"] else rest
    chosen = session.inventory.chosen_pipeline(first if is_name else None)
    raise typer.Exit(run_dbt(session, words) if chosen.is_weather else dbt_own(session, chosen.name, words))


def pytest(
    pipeline: Annotated[str, typer.Argument(help="A pipeline of your own.")],
    words: Annotated[list[str] | None, typer.Argument(help="Options of pytest.", metavar="-- ARGS")] = None,
) -> None:
    """Run the tests of a pipeline with pytest, and exit with its status.

    Example:  homelab dev test prices
    """
    from homelab.commands.dev import run_tests

    raise typer.Exit(run_tests(settings.session(), pipeline, words or []))


def reset(yes: Yes = False) -> None:
    """Delete the local database, its marts and the installation.

    Example:  homelab dev reset
    """
    from homelab.commands.dev import reset as remove

    session = settings.session()
    if not confirm("Delete the local database, its marts and the installation?", yes):
        raise typer.Exit(1)
    removed = remove(session)
    echo(f"{removed} deleted" if removed else "There is nothing to delete")
