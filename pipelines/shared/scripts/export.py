"""Write the published marts to standard output: `export.py --database FILE --format duckdb|parquet`.

The first line is `{"size": BYTES}`, then follow so many bytes: the DuckDB file, or a tar file with one Parquet file for
each table of the schema `main`.

Exit status: 0 success, 1 DuckDB cannot read the file, 3 no build has been published yet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import duckdb
from contract import EXIT
from read_published import NothingPublished, require_published

_TABLES = "select table_name from information_schema.tables where table_schema = 'main' order by table_name"


def pack_parquet(database: Path, folder: Path) -> Path:
    """Write each table of `main` as a Parquet file into a new tar file in the folder. Raises duckdb.Error."""
    archive = folder / "marts.tar"
    with duckdb.connect(str(database), read_only=True) as connection, tarfile.open(archive, "w") as tar:
        connection.execute("set TimeZone = 'UTC'")
        for (table,) in connection.execute(_TABLES).fetchall():
            file = folder / f"{table}.parquet"
            name = '"' + table.replace('"', '""') + '"'
            connection.execute(f"copy main.{name} to '{file}' (format parquet, compression zstd)")
            tar.add(file, file.name)
            file.unlink()
    return archive


def send(path: Path) -> None:
    """Write the size and the content of a file to standard output. A file that is replaced meanwhile stays whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        sys.stdout.buffer.write(json.dumps({"size": size}).encode() + b"\n")
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--format", choices=["duckdb", "parquet"], default="duckdb")
    options = parser.parse_args()
    try:
        require_published(options.database)
        if options.format == "duckdb":
            send(options.database)
        else:
            # Next to the data, which has room for a copy; /tmp may be memory.
            with tempfile.TemporaryDirectory(dir=options.database.parent, prefix="export-") as folder:
                send(pack_parquet(options.database, Path(folder)))
    except NothingPublished as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.nothing_published
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
