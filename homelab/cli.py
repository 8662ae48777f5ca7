"""The command line: verbs, options, output; the only catch of HomelabError, and the only importer of typer.

What a verb needs is imported when it runs, so that `homelab --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homelab.errors import HomelabError, InputError

if TYPE_CHECKING:
    from homelab.model import Inventory
    from homelab.plan import Plan
    from homelab.progress import Progress
    from homelab.secrets import FileVault
    from homelab.trust import KnownHosts

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]})
lab_app = typer.Typer(no_args_is_help=True, help="A Proxmox-compatible node on this machine, to try everything on.")
app.add_typer(lab_app, name="lab")

Limit = Annotated[list[str] | None, typer.Option("--limit", help="Only this container; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass
class Settings:
    """What the global options say."""

    inventory: Path = Path("inventory.yaml")
    overlays: list[Path] = field(default_factory=list)
    verbose: bool = False
    quiet: bool = False

    def load(self) -> Inventory:
        """The inventory that was named. Raises InputError with every fault in it."""
        from homelab.inventory import load

        return load([self.inventory, *self.overlays])

    def progress(self) -> Progress:
        """Where long work reports itself."""
        from homelab.progress import SilentProgress, TerminalProgress

        return SilentProgress() if self.quiet else TerminalProgress()


settings = Settings()


def _trust(inventory: Inventory) -> tuple[FileVault, KnownHosts]:
    from homelab.secrets import FileVault
    from homelab.trust import KnownHosts

    return FileVault(inventory.state_dir), KnownHosts(inventory.state_dir / "known_hosts.json")


def _emit(result: Any, as_json: bool, text: Callable[[], None]) -> None:
    if as_json:
        from homelab.view import plain

        typer.echo(json.dumps(plain(result), indent=2, ensure_ascii=False))
    else:
        text()


@app.callback()
def options(
    inventory: Annotated[Path, typer.Option("--inventory", "-i", envvar="HOMELAB_INVENTORY",
                                            help="The inventory.")] = Path("inventory.yaml"),
    overlay: Annotated[list[Path] | None, typer.Option(help="A file laid over the inventory; may be repeated.")] = None,
    lab: Annotated[bool, typer.Option("--lab", help="Work on this machine's lab instead of your Proxmox.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
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


@app.command()
def init(
    host: Annotated[str | None, typer.Option(help="The Proxmox node's name or address.")] = None,
    port: Annotated[int, typer.Option(help="Its API port.")] = 8006,
) -> None:
    """Write a commented inventory.yaml, pin the node's certificate, and say how to make the token.

    Example:  homelab init --host pve.lan
    """
    from homelab.commands.init import init as run

    run(settings.inventory, host=host or typer.prompt("Proxmox node (name or address)"), port=port,
        confirm=typer.confirm, ask=lambda text: typer.prompt(text, hide_input=True, default="", show_default=False),
        say=typer.echo)


@app.command()
def up(limit: Limit = None, as_json: Json = False) -> None:
    """Create, update and start the containers, so that they are what the inventory says.

    Example:  homelab up --limit postgres-data
    """
    from homelab.commands.up import up as run
    from homelab.view import show_outcome

    inventory = settings.load()
    vault, known_hosts = _trust(inventory)
    outcome = run(inventory, vault=vault, known_hosts=known_hosts, progress=settings.progress(),
                  confirm=_show, limit=limit or ())
    _emit(outcome, as_json, lambda: show_outcome(outcome))


def _show(plan: Plan) -> bool:
    for action in plan.actions:
        typer.echo(f"  {action}", err=True)
    return True


@app.command()
def deploy(
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change, with diffs.")] = False,
    as_json: Json = False,
) -> None:
    """Bring what is inside the containers to the desired state. A second run changes nothing.

    Example:  homelab deploy --dry-run
    """
    from homelab.commands.deploy import deploy as run
    from homelab.view import show_deploy

    inventory = settings.load()
    vault, known_hosts = _trust(inventory)
    reports = run(inventory, vault=vault, known_hosts=known_hosts, progress=settings.progress(), limit=limit or (),
                  dry_run=dry_run)
    _emit(reports, as_json, lambda: show_deploy(reports, dry_run))
    failures = [report.failure for report in reports if report.failure]
    for failure in failures:
        _complain(failure)
    if failures:
        raise typer.Exit(1)


@app.command()
def status(as_json: Json = False) -> None:
    """Show what runs: containers, services, data, the last runs. Exit code 0 only if all is healthy."""
    from homelab.commands.status import status as run
    from homelab.view import show_status

    inventory = settings.load()
    vault, known_hosts = _trust(inventory)
    report = run(inventory, vault=vault, known_hosts=known_hosts)
    _emit(report, as_json, lambda: show_status(report))
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def destroy(limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove the inventory's containers and all that is in them. Nothing that is not ours is touched.

    Example:  homelab destroy --limit airflow-orchestration
    """
    from homelab.commands.destroy import destroy as run
    from homelab.view import show_outcome

    def confirm(plan: Plan) -> bool:
        _show(plan)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise InputError("Nobody is there to confirm", "Standard input is not a terminal.",
                             "Say `homelab destroy --yes` if you mean it.")
        return typer.confirm("These containers and all their data will be gone. Go on?", err=True)

    inventory = settings.load()
    _, known_hosts = _trust(inventory)
    outcome = run(inventory, known_hosts=known_hosts, progress=settings.progress(), confirm=confirm, limit=limit or ())
    _emit(outcome, as_json, lambda: show_outcome(outcome))


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SQL statement for DuckDB.")],
    as_json: Json = False,
) -> None:
    """Ask the published marts. Readers never wait for a build, and never see half of one.

    Example:  homelab query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.commands.query import query as run
    from homelab.view import show_rows

    inventory = settings.load()
    vault, known_hosts = _trust(inventory)
    rows = run(inventory, sql, vault=vault, known_hosts=known_hosts)
    _emit(rows, as_json, lambda: show_rows(rows))


@app.command()
def ssh(
    name: Annotated[str, typer.Argument(help="The container.")],
    command: Annotated[list[str] | None, typer.Argument(help="What to run there; a shell if left out.")] = None,
) -> None:
    """Open a shell in a container, or run a command there.

    Example:  homelab ssh postgres-data -- systemctl --failed
    """
    from homelab.commands.access import ssh_argv

    inventory = settings.load()
    _exec(ssh_argv(inventory, name, command or (), *_trust(inventory)))


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="The container.")],
    unit: Annotated[str | None, typer.Argument(help="A unit; all of the container's services if left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come in.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines to begin with.")] = 100,
) -> None:
    """Show the journal of a container's services.

    Example:  homelab logs airflow-orchestration airflow-scheduler -f
    """
    from homelab.commands.access import logs_argv

    inventory = settings.load()
    _exec(logs_argv(inventory, name, unit, follow, lines, *_trust(inventory)))


def _exec(argv: list[str]) -> None:
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the user's terminal becomes ssh's
    except FileNotFoundError as error:
        raise HomelabError("ssh is not installed", "This command hands over to OpenSSH's client.",
                           "Install it: apt install openssh-client") from error


@app.command()
def demo() -> None:
    """The whole way on this machine: lab, containers, deploy, one run of the pipeline, status, and its weather."""
    from homelab.commands.demo import demo as run
    from homelab.view import show_rows, show_status

    report, rows = run(settings.inventory, settings.progress())
    show_status(report)
    show_rows(rows)
    if not report.healthy:
        raise typer.Exit(1)


@lab_app.command("up")
def lab_up() -> None:
    """Start the lab: bridge, template, node, replay server. Quick when it is up already."""
    from homelab.lab import Lab
    from homelab.lab import up as run

    typer.echo(f"The lab is up; its overlay is {run(Lab(), settings.progress())}")


@lab_app.command("down")
def lab_down(
    yes: Yes = False,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the cached template, too.")] = False,
) -> None:
    """Stop the lab, and remove its containers and all that it put on this machine."""
    from homelab.lab import Lab
    from homelab.lab import down as run

    if not yes and sys.stdin.isatty():
        typer.confirm("The lab's containers and all their data will be gone. Go on?", abort=True, err=True)
    run(Lab(), settings.progress(), purge=purge)


@lab_app.command("status")
def lab_status(as_json: Json = False) -> None:
    """Show what of the lab is up. Exit code 0 only if it is."""
    from homelab.lab import Lab
    from homelab.lab import status as run
    from homelab.view import show_lab

    report = run(Lab())
    _emit(report, as_json, lambda: show_lab(report))
    if not report.running:
        raise typer.Exit(1)


def _complain(error: HomelabError) -> None:
    from homelab.view import show_error

    show_error(error)


def main() -> None:
    """Run the command line. Exit codes: 0 good, 1 something failed, 2 the input cannot be used, 130 Ctrl-C."""
    try:
        app()
    except HomelabError as error:
        if settings.verbose:
            raise
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Run the same command again: it goes on where it stopped.", err=True)
        sys.exit(130)
