"""Put DuckDB's postgres_scanner extension, from its wheel, into a folder: `install_extension.py [--check] FOLDER`.

With --check nothing is changed; exit status 0 means that it is there and loads in this very DuckDB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb

EXTENSION = "postgres_scanner"


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection that loads extensions from the folder and never fetches one."""
    return duckdb.connect(config={"extension_directory": str(folder), "autoinstall_known_extensions": "false"})


def loads(folder: Path) -> bool:
    """Whether the extension is there, signed, and made for this DuckDB."""
    with connect(folder) as connection:
        try:
            connection.load_extension(EXTENSION)
        except duckdb.Error:
            return False
    return True


def install(folder: Path) -> None:
    """Copy the extension out of its wheel."""
    from duckdb_extensions import import_extension

    folder.mkdir(parents=True, exist_ok=True)
    with connect(folder) as connection:
        import_extension(EXTENSION, force_install=True, con=connection)


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, say whether it is there")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not loads(options.folder):
        if options.check:
            print(f"{EXTENSION} for DuckDB {duckdb.__version__} is not in {options.folder}", file=sys.stderr)
            return 1
        install(options.folder)
        if not loads(options.folder):
            print(f"error: {EXTENSION} does not load in DuckDB {duckdb.__version__}", file=sys.stderr)
            return 1
    print(f"{EXTENSION} for DuckDB {duckdb.__version__}: {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
