"""The command line: verbs, options, output; the only catch of HomelabError, and the only importer of typer.

What a verb needs is imported when it runs, so that `homelab --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated

import typer

from homelab.cli import backup, containers, deploy, dev, golden, import_, pipeline
from homelab.cli import lab as lab_verbs
from homelab.cli.common import print_error, settings
from homelab.errors import HomelabError, InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (containers, import_, deploy, pipeline, dev, backup, golden, lab_verbs):
    group.register(app)


@app.callback()
def options(
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", envvar="HOMELAB_INVENTORY", help="The inventory.")
    ] = Path("inventory.yaml"),
    overlay: Annotated[list[Path] | None, typer.Option(help="A file laid over the inventory; may be repeated.")] = None,
    lab: Annotated[bool, typer.Option("--lab", help="Work on this machine's lab instead of your Proxmox.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show tracebacks, and what runs in containers.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """One inventory.yaml becomes a running data stack on Proxmox VE: PostgreSQL, dbt + DuckDB, Airflow.

    First time:   homelab init, homelab up, homelab deploy

    Every day:    homelab status, homelab query "select * from weather_daily"

    To try it:    homelab lab up, homelab --lab up, homelab --lab deploy
    """
    settings.inventory, settings.overlays = inventory, list(overlay or ())
    settings.verbose, settings.quiet = verbose, quiet
    if lab:
        from homelab.lab import Lab

        overlay_file = Lab().overlay
        if not overlay_file.exists():
            raise InputError("The lab is not up", f"{overlay_file} is not there.", "Run `homelab lab up` first.")
        settings.overlays.append(overlay_file)


@app.command()
def version() -> None:
    """Print the version."""
    from homelab import __version__

    typer.echo(f"homelab {__version__}")


_interrupts: list[int] = []


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in three lines what nobody has thought of; the traceback only if it is asked for."""
    settings.stop_progress()
    if settings.verbose:
        sys.__excepthook__(kind, error, trace)
    else:
        print_error(
            HomelabError(
                "This is a fault of homelab's",
                f"{kind.__name__}: {error}",
                "Run it again with `homelab --verbose …` and report what it shows.",
            )
        )


def main() -> None:
    """Run the command line. Exit codes: 0 good, 1 something failed, 2 the input cannot be used, 130 Ctrl-C."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _unforeseen
    try:
        typer.main.get_command(app)()  # called itself, a Typer puts its own excepthook in the place of ours
    except HomelabError as error:
        settings.stop_progress()
        if settings.verbose:
            sys.__excepthook__(*sys.exc_info())
        else:
            print_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if not _interrupts:
            raise
        settings.stop_progress()
        # What Typer makes of a KeyboardInterrupt that nobody has dealt with: an exit without a word. At a question,
        # which comes before anything is begun, it has said "Aborted.".
        if not isinstance(end.__context__, typer.Abort):
            typer.echo("Interrupted. Run the same command again: it goes on where it stopped.", err=True)
        sys.exit(130)
