"""Rendering of templates: the only importer of jinja2. A missing value is an error, never an empty text."""

from __future__ import annotations

import functools
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from homelab.errors import HomelabError
from homelab.paths import bundled_path

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, slots=True)
class Templates:
    """A folder of Jinja templates; `origin` is its name in errors."""

    folder: Path
    origin: str

    def render(self, template: str, /, **values: Any) -> bytes:
        """Return the text of a template with these values. Raises HomelabError that quotes a faulty line."""
        import jinja2

        try:
            return _environment(self.folder).get_template(template).render(**values).encode()
        except jinja2.TemplateNotFound as error:
            raise HomelabError(
                f"Cannot render {self.origin}/{template}: there is no template {error.name}",
                f"It is not in {self.folder}.",
                "Correct its name, or add the file.",
            ) from error
        except jinja2.TemplateSyntaxError as error:
            raise self._error(template, error.lineno, str(error)) from error
        except (jinja2.UndefinedError, jinja2.exceptions.SecurityError) as error:
            raise self._error(template, _line_of(error), str(error)) from error

    def _error(self, template: str, line: int, message: str) -> HomelabError:
        lines = (self.folder / template).read_text().splitlines()
        quoted = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        return HomelabError(
            f"Cannot render {self.origin}/{template}: line {line}: {message}",
            f"  {quoted}",
            "This is a bug in this template, or in the service that renders it.",
        )


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    import jinja2  # lazily, as most commands do not render
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A template next to an inventory is not approved as its Python code is, so it may run no code either.
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    environment.filters["url_part"] = lambda value: quote(str(value), safe="")
    environment.filters["compact_json"] = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return environment


def render(template: str, /, **values: Any) -> bytes:
    """Return the text of `templates/<template>` with these values. Raises HomelabError that quotes a faulty line."""
    return Templates(bundled_path("templates"), "templates").render(template, **values)


def _line_of(error: Exception) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(".j2"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
