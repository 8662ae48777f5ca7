"""Lines of logs, as text with a colour for each container, or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from homelab.cli.output import console
from homelab.cli.results import print_json_line
from homelab.runtime.journals import LogLine

_COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
LEVEL_STYLES = {"error": "red", "warning": "yellow", "debug": "dim"}


def log_printer(containers: Sequence[str], as_json: bool) -> Callable[[LogLine], None]:
    """Return the function that prints a line; with one container, its name is omitted."""
    if as_json:
        return print_json_line
    target, widest = console(), max(map(len, containers), default=0)
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(containers)}

    def show(line: LogLine) -> None:
        moment = line.time.astimezone().strftime("%m-%d %H:%M:%S ")
        name = (f"{line.container:<{widest}} ", colours.get(line.container, "")) if len(containers) > 1 else ""
        text = (line.text, LEVEL_STYLES.get(line.level, ""))
        target.print(Text.assemble((moment, "dim"), name, (f"{line.unit}: ", "bold"), text), soft_wrap=True)

    return show
