"""Rendering of templates: the only importer of jinja2. A missing value is an error, never an empty text."""

from __future__ import annotations

import functools
import json
import shlex
from typing import TYPE_CHECKING, Any

from homelab.errors import HomelabError
from homelab.paths import bundled_path

if TYPE_CHECKING:
    import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # lazily, as most commands do not render

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(bundled_path("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - configuration files, not HTML
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    environment.filters["compact_json"] = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return environment


def render(template: str, /, **values: Any) -> bytes:
    """Return the text of `templates/<template>` with these values. Raises HomelabError that quotes a faulty line."""
    import jinja2

    try:
        return _environment().get_template(template).render(**values).encode()
    except jinja2.TemplateSyntaxError as error:
        raise _template_error(template, error.lineno, str(error)) from error
    except jinja2.UndefinedError as error:
        raise _template_error(template, _line_of(error), str(error)) from error


def _line_of(error: Exception) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(".j2"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _template_error(template: str, line: int, message: str) -> HomelabError:
    lines = (bundled_path("templates") / template).read_text().splitlines()
    quoted = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return HomelabError(
        f"Cannot render templates/{template}: line {line}: {message}",
        f"  {quoted}",
        "This is a bug in homelab's template, or in your change of it.",
    )
