"""The global options, understood before and after each verb, and the options that several verbs share."""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from homelab.cli import completion
from homelab.cli.hints import typed
from homelab.errors import InputError

if TYPE_CHECKING:
    from homelab.model import Inventory
    from homelab.progress import Progress
    from homelab.runtime.session import Session


def _finite(value: float) -> float:
    if not math.isfinite(value):  # typer accepts nan and inf as numbers
        raise typer.BadParameter(f"{value} is not a number of seconds.")
    return value


# The global options.
InventoryFile = Annotated[
    Path | None,
    typer.Option("--inventory", "-i", help="The inventory; default: $HOMELAB_INVENTORY, else inventory.yaml."),
]
Overlay = Annotated[
    list[Path] | None, typer.Option("--overlay", help="A file merged over the inventory; can be repeated.")
]
UseLab = Annotated[bool, typer.Option("--lab", help="Use this machine's lab instead of your Proxmox.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and the commands in containers.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
# The options that several verbs share.
Container = Annotated[
    str, typer.Argument(metavar="CONTAINER", help="The container.", autocompletion=completion.containers)
]
Containers = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONTAINER", help="The containers; default: all.", autocompletion=completion.containers),
]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Only this container; can be repeated.", autocompletion=completion.containers),
]
Interval = Annotated[float, typer.Option("--interval", min=1, callback=_finite, help="Seconds between two reports.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PipelineArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="PIPELINE",
        help="The pipeline; default: the only one, or the weather.",
        autocompletion=completion.pipelines,
    ),
]
PipelineOption = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        help="The pipeline of the marts; default: the only one, or the weather.",
        autocompletion=completion.pipelines,
    ),
]
DetailedExitcode = Annotated[
    bool, typer.Option("--detailed-exitcode", help="Exit with 0: no changes, 2: changes, 1: any error.")
]


@dataclass
class Settings:
    """The values of the global options."""

    inventory: Path = field(default_factory=lambda: Path(os.environ.get("HOMELAB_INVENTORY") or "inventory.yaml"))
    overlays: list[Path] = field(default_factory=list)
    lab: bool = False
    verbose: bool = False
    quiet: bool = False
    json: bool = False
    changes_found: bool = False  # exit code 2 means changes, not an error
    _progress: Progress | None = None

    @property
    def paths(self) -> list[Path]:
        """The inventory, the lab's overlay with --lab, then the other overlays. Raises InputError without a lab."""
        if not self.lab:
            return [self.inventory, *self.overlays]
        from homelab.lab import Lab

        lab = Lab()
        if not lab.overlay.exists():
            details = f"{lab.overlay} does not exist."
            raise InputError("Cannot use the lab: it is not running", details, "homelab lab up")
        return [self.inventory, *lab.overlays, *self.overlays]

    @property
    def folder(self) -> Path:
        """The inventory's folder; the inventory need not exist."""
        return self.inventory.absolute().parent

    def load(self) -> Inventory:
        """Return the inventory. Raises InputError with all its errors."""
        from homelab.inventory import load

        return load(self.paths)

    def session(self, events: bool = False) -> Session:
        """Return a session on the inventory; `events` reports progress as JSON lines. Raises InputError."""
        from homelab.runtime.session import Session

        return Session.open(self.load(), self.progress(events))

    def progress(self, events: bool = False) -> Progress:
        """Return the progress display: for people, or as JSON lines; on standard error."""
        from homelab.progress import JsonProgress, SilentProgress, TerminalProgress

        if self.quiet:
            self._progress = SilentProgress()
        elif events:
            self._progress = JsonProgress(sys.stderr)
        else:
            from homelab.cli.output import error_console

            self._progress = TerminalProgress(error_console(), verbose=self.verbose)
        return self._progress

    def stop_progress(self) -> None:
        """Restore the terminal before other output."""
        if self._progress:
            self._progress.close()


settings = Settings()


def apply_global_options(
    *,
    inventory: InventoryFile = None,
    overlay: Overlay = None,
    lab: UseLab = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Store the global options of one position, in addition to those of the other."""
    typed.select(inventory=inventory, overlays=overlay or (), lab=lab)
    if inventory is not None:
        settings.inventory = inventory
    settings.overlays += overlay or []
    settings.lab |= lab
    settings.verbose |= verbose
    settings.quiet |= quiet


def _refuse_empty(parameters: Sequence[inspect.Parameter], values: Mapping[str, Any]) -> None:
    """Raise InputError for an empty text where a missing one has a meaning: a script's variable was not set."""
    for each in parameters:
        value = values[each.name]
        if each.default is None and (value == "" or (isinstance(value, list) and "" in value)):
            raise InputError(f"Cannot use {_typed_name(each)}: it is empty", "", "Name a value, or omit it.")


def _typed_name(parameter: inspect.Parameter) -> str:
    """Return the name of a parameter in the help text: `--storage`, `PIPELINE`."""
    info = get_args(parameter.annotation)[1]
    if isinstance(info, typer.models.ArgumentInfo):
        return (info.metavar or parameter.name).upper()
    names = [name for name in info.param_decls or () if name.startswith("--")]
    return names[0] if names else f"--{parameter.name.replace('_', '-')}"


def add_verb(app: typer.Typer, function: Callable[..., None], name: str | None = None, **context: Any) -> None:
    """Add a verb that also understands the global options behind its name; `context` are click's context settings."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())
    shared = list(inspect.signature(apply_global_options, eval_str=True).parameters.values())

    @functools.wraps(function)
    def verb(**values: Any) -> None:
        apply_global_options(**{each.name: values.pop(each.name) for each in shared})
        _refuse_empty(own, values)
        if settings.json and "as_json" not in values:
            raise InputError("Cannot print JSON: this command has no JSON output", "", "Omit `--json`.")
        if "as_json" in values:
            values["as_json"] |= settings.json
        typed.verb, typed.limit = name or function.__name__, values.get("limit") or ()
        function(**values)

    verb.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in [*own, *shared]}
    app.command(name, context_settings=context or None)(verb)
