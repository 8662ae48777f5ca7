"""Install DuckDB's extensions from their wheels into a folder: `install_extension.py [--check] FOLDER`.

`--check` changes nothing; exit status 0 means that all are installed and load in this version of DuckDB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb
from contract import EXIT

EXTENSIONS = ("postgres_scanner", "httpfs", "ducklake")


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """Connect to a DuckDB that loads extensions from the folder and never downloads one."""
    return duckdb.connect(config={"extension_directory": str(folder), "autoinstall_known_extensions": "false"})


def loads(folder: Path) -> bool:
    """Return True if all extensions are installed, signed, and built for this DuckDB."""
    with connect(folder) as connection:
        try:
            for name in EXTENSIONS:
                connection.load_extension(name)
        except duckdb.Error:
            return False
    return True


def install(folder: Path) -> None:
    """Copy the extensions out of their wheels."""
    from duckdb_extensions import import_extension

    folder.mkdir(parents=True, exist_ok=True)
    with connect(folder) as connection:
        for name in EXTENSIONS:
            import_extension(name, force_install=True, con=connection)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, check the installation")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not loads(options.folder):
        if options.check:
            print(
                f"error: {', '.join(EXTENSIONS)} for DuckDB {duckdb.__version__} are not in {options.folder}",
                file=sys.stderr,
            )
            return EXIT.failed
        install(options.folder)
        if not loads(options.folder):
            print(f"error: cannot load {', '.join(EXTENSIONS)} in DuckDB {duckdb.__version__}", file=sys.stderr)
            return EXIT.failed
    print(f"{', '.join(EXTENSIONS)} for DuckDB {duckdb.__version__}: {options.folder}")
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
