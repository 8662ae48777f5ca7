"""Generate the dbt project's documentation as one self-contained page, data/docs.html, and print its path.

The page is generated only if the project or the columns of the published tables have changed. It needs neither
PostgreSQL nor the warehouse: a running build does not delay it. Exit status: 0 the page exists, 1 it could not be
generated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import EXIT
from dbt_runner import DBT_SETTINGS, Layout, exclusive
from project_hash import fingerprint
from read_published import NothingPublished, connect

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

_COLUMNS = """select table_schema, table_name, column_name, data_type, ordinal_position
from information_schema.columns order by all"""
Column = tuple[str, str, str, str, int]  # schema, table, name, type, position
_SOURCES = ("*.sql", "*.yml", "*.md", "*.csv")


class DocsFailed(Exception):
    """dbt could not generate the documentation."""


def generate(layout: Layout, timeout: float, profile: str | None = None) -> Path:
    """Return the up-to-date page. Raises TimeoutError and DocsFailed."""
    page, built_from = layout.data / "docs.html", layout.data / "docs.fingerprint"
    layout.data.mkdir(parents=True, exist_ok=True)
    with exclusive(layout.data / "docs.lock", timeout):
        columns = _published_columns(layout.published)
        state = fingerprint(layout.project, repr(columns), patterns=_SOURCES)
        if page.exists() and built_from.exists() and built_from.read_text() == state:
            return page
        target = layout.data / "target-docs"  # separate, so that builds keep their parsed state
        target.mkdir(exist_ok=True)
        parsed = layout.run_results.with_name("partial_parse.msgpack")
        if parsed.exists():  # else dbt parses the whole project
            shutil.copyfile(parsed, target / parsed.name)
        with contextlib.redirect_stdout(sys.stderr):
            manifest = _run_dbt(layout, target, profile)
        static = target / "static_index.html"
        empty = (target / "catalog.json").read_text()
        static.write_text(static.read_text().replace(empty, _catalog(empty, manifest, columns)))
        os.replace(static, page)
        built_from.write_text(state)
    return page


def _run_dbt(layout: Layout, target: Path, profile: str | None) -> Manifest:
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest

    os.environ |= DBT_SETTINGS
    folders = {"project": layout.project, "profiles": layout.profiles}
    options = [word for name, folder in folders.items() for word in (f"--{name}-dir", str(folder))]
    options += ["--profile", profile] if profile else []
    options += ["--target-path", str(target), "--log-path", str(target), "--no-use-colors"]
    parsed = dbtRunner().invoke(["parse", *options])
    manifest = parsed.result
    if isinstance(manifest, Manifest):
        without_database = ["--static", "--no-compile", "--empty-catalog"]
        parsed = dbtRunner(manifest=manifest).invoke(["docs", "generate", *without_database, *options])
        if parsed.success:
            return manifest
    raise DocsFailed(f"Cannot generate the documentation: {parsed.exception or 'dbt failed'}")


def _published_columns(published: Path) -> Sequence[Column]:
    """Return the columns of the published file; none before the first build."""
    try:
        with connect(published) as connection:
            return connection.execute(_COLUMNS).fetchall()
    except NothingPublished:
        return []


def _catalog(empty: str, manifest: Manifest, columns: Sequence[Column]) -> str:
    """Return the catalog with these columns."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for schema, table, name, kind, index in columns:
        found.setdefault((schema, table), {})[name] = {"name": name, "type": kind, "index": index}
    catalog = json.loads(empty)
    for node in manifest.nodes.values():
        if known := found.get((node.schema, node.alias)):
            metadata = {"type": "", "schema": node.schema, "name": node.alias}
            catalog["nodes"][node.unique_id] = {
                "unique_id": node.unique_id,
                "metadata": metadata,
                "columns": known,
                "stats": {},
            }
    return json.dumps(catalog)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, required=True, help="folder of dbt_project.yml")
    parser.add_argument("--profiles", type=Path, required=True, help="folder of profiles.yml")
    parser.add_argument("--profile", help="profile in profiles.yml, instead of the project's")
    parser.add_argument("--data", type=Path, required=True, help="folder of the page")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for another run")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    try:
        print(generate(layout, options.wait, options.profile))
    except (TimeoutError, DocsFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
