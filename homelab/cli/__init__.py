"""The command line: the only importer of typer, and the only place that catches HomelabError.

Each verb imports its command at the call, so that `homelab --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Annotated, NoReturn

import typer

from homelab.cli import (
    airflow_lock,
    alerts,
    backup,
    ca,
    ci,
    dashboard,
    deploy,
    dev,
    export,
    golden,
    import_,
    lab,
    live,
    open_,
    pipeline,
    provision,
    prune,
    schema,
    secret,
    services,
    trust,
)
from homelab.cli.global_options import (
    InventoryFile,
    Json,
    Overlay,
    Quiet,
    UseLab,
    Verbose,
    apply_global_options,
    settings,
)
from homelab.cli.hints import typed
from homelab.cli.results import echo, print_error
from homelab.errors import BAD_INPUT, FAILED, INTERRUPTED, HomelabError, InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    provision,
    trust,
    import_,
    deploy,
    live,
    prune,
    secret,
    ca,
    pipeline,
    airflow_lock,
    alerts,
    dev,
    services,
    open_,
    dashboard,
    backup,
    golden,
    schema,
    ci,
    export,
    lab,
):
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from homelab import __version__

        echo(f"homelab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    inventory: InventoryFile = None,
    overlay: Overlay = None,
    lab: UseLab = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """One inventory.yaml becomes a running data stack on Proxmox VE: PostgreSQL, dbt + DuckDB, Airflow.

    First time:   homelab init, homelab up, homelab deploy

    Every day:    homelab status, homelab query "select * from weather_daily"

    To try it:    homelab lab up, homelab --lab up, homelab --lab deploy
    """
    typed.clear()
    apply_global_options(inventory=inventory, overlay=overlay, lab=lab, verbose=verbose, quiet=quiet)
    settings.json |= as_json


_interrupts: list[int] = []


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an unexpected exception in three lines; print the traceback only with --verbose."""
    _report(
        HomelabError(
            "Internal error: this is a bug in homelab",
            f"{kind.__name__}: {error}",
            "Run the command again with `--verbose` and report its output.",
        ),
        (kind, error, trace),
    )


def _report(shown: HomelabError, cause: tuple[type[BaseException], BaseException, TracebackType | None]) -> None:
    settings.stop_progress()
    if settings.verbose:
        sys.__excepthook__(*cause)
    else:
        print_error(shown)


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 bad input, 130 Ctrl-C.

    With --detailed-exitcode, 2 means changes, and bad input is 1.
    """
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _report_bug
    try:
        _run()
    except KeyboardInterrupt:  # while the commands are built, or the end is reported
        _interrupted("Interrupted.")


def _run() -> None:
    try:
        typer.main.get_command(app)()  # a Typer called itself would install its own excepthook
    except HomelabError as error:
        _report(error, (type(error), error, error.__traceback__))
        sys.exit(_exit_code(error.exit_code))
    except OSError as error:
        shown = _stray_error(error)
        _discard_output()
        _report(shown, (type(error), error, error.__traceback__))
        sys.exit(_exit_code(shown.exit_code))
    except SystemExit as end:
        if not _interrupts:
            sys.exit(_exit_code(end.code) if isinstance(end.code, int) else end.code)
        # Typer turns an unhandled KeyboardInterrupt into an exit without a message. At a question, before any work,
        # it prints "Aborted.".
        asked = isinstance(end.__context__, typer.Abort)
        _interrupted("" if asked else "Interrupted. Run the same command again: it continues from here.")


def _interrupted(text: str) -> NoReturn:
    settings.stop_progress()
    if text:
        echo(text, err=True)
    sys.exit(INTERRUPTED)


def _stray_error(error: OSError) -> HomelabError:
    """Return the report of an obstacle that no command expects, such as a full disk or a deleted folder."""
    try:
        os.getcwd()
    except OSError:
        return InputError("Cannot continue: the current folder was deleted", "", "Change to another folder.")
    place = f": {error.filename}" if error.filename else ""
    return HomelabError(
        f"Cannot continue: {error.strerror or type(error).__name__}{place}",
        "",
        "Run the command again with `--verbose` to see where it stopped.",
    )


def _discard_output() -> None:
    """Discard what standard output does not accept: Python would report it a second time at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_code(code: int) -> int:
    mistaken = code == BAD_INPUT and "--detailed-exitcode" in sys.argv and not settings.changes_found
    return FAILED if mistaken else code
