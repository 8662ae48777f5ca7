"""Text output for people: errors, tables, outcomes; colours only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from homelab.cli.hints import typed
from homelab.errors import HomelabError
from homelab.terminal import printable

_UNBOUNDED = 100_000  # columns of a pipe, in which nothing is wrapped
_PIPE_TABLE = 160  # columns of a table in a pipe, unless COLUMNS is set


class _SafeConsole(Console):
    """A console that escapes unsafe characters in printed texts and completes the commands in them."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(safe(each) if isinstance(each, str | Text) else each for each in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape unsafe characters in every other output, such as the cells of a table."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def safe(text: str | Text) -> Text:
    """Return a text without unsafe characters and with complete commands; the style is that of the text's parts."""
    shown = text.copy() if isinstance(text, Text) else Text(text)
    if printable(shown.plain) != shown.plain:
        styles = Console()  # only for the names of styles
        parts = ((part, shown.get_style_at_offset(styles, place)) for place, part in enumerate(shown.plain))
        shown = Text.assemble(*((printable(part), style) for part, style in parts))
    for position, words in reversed(typed.insertions(shown.plain)):
        shown = Text.assemble(shown[:position], (words, shown.style), shown[position:])
    return shown


def console() -> Console:
    """Return a console on standard output; it wraps lines only on a terminal."""
    result = _SafeConsole(highlight=False)
    if not result.is_terminal:
        result.width = _UNBOUNDED
    return result


def error_console() -> Console:
    """Return a console on standard error."""
    return _SafeConsole(stderr=True, highlight=False)


def health_line(healthy: bool) -> Text:
    """Return the last line of a report."""
    return Text("all healthy", "green") if healthy else Text("not healthy: see the lines marked ✗ or !", "bold red")


def show_error(error: HomelabError) -> None:
    """Print an error on standard error: cause, details, and the command that helps."""
    target = error_console()
    target.print(Text.assemble(("Error: ", "bold red"), error.brief), soft_wrap=True)
    for part in (error.details, error.resolution):
        if part:
            target.print(Text(part), soft_wrap=True)


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a query's rows as a table, or as records if the table is wider than the terminal."""
    target = console()
    if not rows:
        target.print("no rows")
        return
    # Text, because rich reads square brackets in strings as markup.
    columns = [Column(Text(printable(name))) for name in rows[0]]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row.values()))
    width = target.width if target.is_terminal else get_terminal_size((_PIPE_TABLE, 0)).columns
    if target.measure(table, options=target.options.update_width(_UNBOUNDED)).maximum <= width:
        target.print(table)
    else:
        _show_records(target, rows)


def _show_records(target: Console, rows: Sequence[dict[str, Any]]) -> None:
    widest = max(map(len, rows[0]))
    for number, row in enumerate(rows, start=1):
        target.print(Text(f"row {number}", "dim"))
        for name, value in row.items():
            text = Text.assemble((f"  {name:<{widest}}  ", "bold"), "" if value is None else str(value))
            target.print(text, soft_wrap=True)
