"""The HTTPS client of ClickHouse, and the exchange of rows between it and DuckDB as Parquet files."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import urlencode

import duckdb
from contract import CLICKHOUSE_SETTINGS
from duckdb_sql import literal

_TIMEOUT = 3600  # seconds of one statement
_TYPES = {
    "BIGINT": "Int64",
    "BOOLEAN": "Bool",
    "DATE": "Date",
    "DOUBLE": "Float64",
    "HUGEINT": "Int128",
    "INTEGER": "Int32",
    "TIMESTAMP": "DateTime64(6, 'UTC')",
    "TIMESTAMP WITH TIME ZONE": "DateTime64(6, 'UTC')",
    "UUID": "String",
    "VARCHAR": "String",
}


class ClickHouseError(Exception):
    """ClickHouse refuses a login or a statement; a retry would fail, too."""


class ClickHouseUnreachable(Exception):
    """ClickHouse does not answer."""


@dataclass(frozen=True, slots=True)
class ClickHouse:
    """The server of a pipeline, and its login there."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    ca_file: str

    @classmethod
    def from_environment(cls) -> ClickHouse | None:
        """Return the server that pipeline.env declares; None without one."""
        if "CLICKHOUSE_HOST" not in os.environ:
            return None
        names = ("CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD", "CLICKHOUSE_CA_FILE")
        user, password, ca_file = (os.environ[name] for name in names)
        return cls(os.environ["CLICKHOUSE_HOST"], int(os.environ["CLICKHOUSE_PORT"]), user, password, ca_file)

    def run(self, sql: str, rows: Path | None = None) -> bytes:
        """Return the response to a statement; `rows` is a file that it inserts.

        Raises ClickHouseError, and ClickHouseUnreachable.
        """
        answer = BytesIO()
        if rows:
            with rows.open("rb") as body:
                self._send(sql, answer, body)
        else:
            self._send(sql, answer)
        return answer.getvalue()

    def save(self, sql: str, file: Path) -> None:
        """Write the response to a query to a file. Raises as `run`."""
        with file.open("wb") as answer:
            self._send(sql, answer)

    def _send(self, sql: str, answer: BinaryIO, body: BinaryIO | None = None) -> None:
        where = f"ClickHouse at {self.host}:{self.port}"
        url = (
            f"https://{self.host}:{self.port}/?{urlencode({**CLICKHOUSE_SETTINGS, **({'query': sql} if body else {})})}"
        )
        headers = {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password}
        if body:
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        request = urllib.request.Request(url, body or sql.encode(), headers)
        try:
            https = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.ca_file))
            # Without a proxy of the environment.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
            with opener.open(request, timeout=_TIMEOUT) as response:
                shutil.copyfileobj(response, answer, 1 << 20)
        except urllib.error.HTTPError as error:
            text = " ".join(error.read(3000).decode(errors="replace").split())
            if "AUTHENTICATION_FAILED" in text:
                raise ClickHouseError(f"Cannot log in to {where}: it refuses the password of {self.user}.") from None
            raise ClickHouseError(f"Cannot run a statement of {where}: {text[:600]}") from None
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                message = f"Cannot verify the certificate of {where}: {cause.verify_message}."
                raise ClickHouseError(message) from None
            raise ClickHouseUnreachable(
                f"Cannot reach {where}: {cause}. The published file is unchanged, and the next build continues."
            ) from None

    def value(self, sql: str) -> str:
        """Return the single value of a query as text. Raises as `run`."""
        return self.run(sql).decode().strip()

    def has(self, table: str) -> bool:
        """Return True if there is a table or view. Raises as `run`."""
        return self.value(f"exists table {table}") == "1"


def create(
    connection: duckdb.DuckDBPyConnection, server: ClickHouse, query: str, target: str, order: str = "tuple()"
) -> None:
    """Create or empty a table with the columns of a query of DuckDB. Raises as ClickHouse.run."""
    columns = (f"`{name}` {clickhouse_type(kind)}" for name, kind in _columns(connection, query))
    server.run(
        f"create or replace table {target} ({', '.join(columns)}) "
        f"engine = MergeTree order by {order} settings allow_nullable_key = 1"
    )


def send(connection: duckdb.DuckDBPyConnection, server: ClickHouse, query: str, target: str, folder: Path) -> None:
    """Insert the rows of a query of DuckDB into a table with the same columns. Raises as ClickHouse.run."""
    columns = _columns(connection, query)
    values = ", ".join(f'"{name}"::varchar as "{name}"' if kind == "UUID" else f'"{name}"' for name, kind in columns)
    with TemporaryDirectory(dir=folder) as temporary:
        file = Path(temporary, "rows.parquet")
        connection.execute(f"copy (select {values} from ({query})) to {literal(str(file))} (format parquet)")
        server.run(f"insert into {target} ({', '.join(f'`{name}`' for name, _ in columns)}) format Parquet", file)


@contextmanager
def fetched(
    connection: duckdb.DuckDBPyConnection, server: ClickHouse, query: str, types: Mapping[str, str], folder: Path
) -> Iterator[str]:
    """Fetch the rows of a query of ClickHouse, and yield DuckDB's query of them, with these types.

    A column without a type has that of its values; integers without a sign become signed. Raises as ClickHouse.run.
    """
    with TemporaryDirectory(dir=folder) as temporary:
        file = Path(temporary, "rows.parquet")
        server.save(f"{query} format Parquet", file)
        source = f"from read_parquet({literal(str(file))})"
        values = (
            f'f."{name}"::{types.get(name) or _signed(kind)} as "{name}"' for name, kind in _columns(connection, source)
        )
        yield f"select {', '.join(values)} {source} as f"


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in connection.execute(f"describe {query}").fetchall()]


def clickhouse_type(kind: str) -> str:
    """Return the type for a column of DuckDB. Raises ClickHouseError for an unknown one."""
    if element := re.fullmatch(r"(.+)\[\]", kind):
        return f"Array({_plain(element[1])})"
    return f"Nullable({_plain(kind)})"


def _plain(kind: str) -> str:
    if kind not in _TYPES:
        raise ClickHouseError(f"Cannot copy a column of the type {kind} to ClickHouse.")
    return _TYPES[kind]


def _signed(kind: str) -> str:
    return {"UBIGINT": "BIGINT", "UINTEGER": "BIGINT", "USMALLINT": "INTEGER", "UTINYINT": "INTEGER"}.get(kind, kind)
