"""Install DuckDB's postgres_scanner extension from its wheel into a folder: `install_extension.py [--check] FOLDER`.

`--check` changes nothing; exit status 0 means that the extension is installed and loads in this version of DuckDB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb
from contract import EXIT

EXTENSION = "postgres_scanner"


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """Connect to a DuckDB that loads extensions from the folder and never downloads one."""
    return duckdb.connect(config={"extension_directory": str(folder), "autoinstall_known_extensions": "false"})


def loads(folder: Path) -> bool:
    """Return True if the extension is installed, signed, and built for this DuckDB."""
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
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, check the installation")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not loads(options.folder):
        if options.check:
            print(f"error: {EXTENSION} for DuckDB {duckdb.__version__} is not in {options.folder}", file=sys.stderr)
            return EXIT.failed
        install(options.folder)
        if not loads(options.folder):
            print(f"error: cannot load {EXTENSION} in DuckDB {duckdb.__version__}", file=sys.stderr)
            return EXIT.failed
    print(f"{EXTENSION} for DuckDB {duckdb.__version__}: {options.folder}")
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
