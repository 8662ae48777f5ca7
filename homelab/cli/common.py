"""What all verbs share: the global options, and how results leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homelab.errors import HomelabError, InputError

if TYPE_CHECKING:
    from homelab.known_hosts import KnownHosts
    from homelab.model import Inventory
    from homelab.progress import Progress
    from homelab.secrets import FileSecretStore

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
    _progress: Progress | None = None

    def load(self) -> Inventory:
        """The inventory that was named. Raises InputError with every fault in it."""
        from homelab.inventory import load

        return load([self.inventory, *self.overlays])

    def progress(self, events: bool = False) -> Progress:
        """Where long work reports itself: to a person, or as lines of JSON, both on standard error."""
        from homelab.progress import JsonProgress, SilentProgress, TerminalProgress

        if self.quiet:
            self._progress = SilentProgress()
        elif events:
            self._progress = JsonProgress(sys.stderr)
        else:
            self._progress = TerminalProgress(verbose=self.verbose)
        return self._progress

    def stop_progress(self) -> None:
        """Leave the terminal as it was, before something else is said."""
        if self._progress:
            self._progress.close()


settings = Settings()


def open_state(inventory: Inventory) -> tuple[FileSecretStore, KnownHosts]:
    """Where this lab's secrets and pins are kept."""
    from homelab.known_hosts import KnownHosts
    from homelab.secrets import FileSecretStore

    return FileSecretStore(inventory.state_dir), KnownHosts.of(inventory.state_dir)


def emit(result: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print a result: as JSON, or in words."""
    if as_json:
        from homelab.cli.output import to_json

        typer.echo(json.dumps(to_json(result), indent=2, ensure_ascii=False))
    else:
        text()


def confirm(command: str, question: str, yes: bool) -> bool:
    """Whether a person agrees to harm. Raises InputError when nobody is there to answer."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(
            "Nobody is there to confirm",
            "Standard input is not a terminal.",
            f"Say `homelab {command} --yes` if you mean it.",
        )
    return typer.confirm(question, err=True)


def confirm_lines(command: str, question: str, yes: bool) -> Callable[[Sequence[str]], bool]:
    """Shows what would happen, line by line, and asks. Raises as `agreed` does."""

    def ask(lines: Sequence[str]) -> bool:
        for line in lines:
            typer.echo(f"  {line}", err=True)
        return confirm(command, question, yes)

    return ask


def print_error(error: HomelabError) -> None:
    """Show an error on standard error."""
    from homelab.cli.output import show_error

    show_error(error)
