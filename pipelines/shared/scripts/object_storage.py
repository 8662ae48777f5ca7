"""A DuckDB that reaches the object storage of the pipeline, over verified TLS."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
from contract import S3_SECRET
from duckdb_sql import literal


def connect(variables: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB in UTC, with the variables of pipeline.env. Raises duckdb.Error.

    S3_URL can be a folder, for tests: then nothing is set up for the object storage.
    """
    config = {"autoinstall_known_extensions": "false", "memory_limit": "1GB"}
    if folder := variables.get("DUCKDB_EXTENSIONS"):
        config["extension_directory"] = folder
    connection = duckdb.connect(config=config)  # type: ignore[arg-type]
    connection.execute("set global TimeZone = 'UTC'")
    if variables.get("S3_URL", "").startswith("s3://"):
        connection.load_extension("httpfs")
        # Global: a secret of DuckDB has no CA.
        connection.execute("set global enable_server_cert_verification = true")
        connection.execute(f"set global ca_cert_file = {literal(variables['S3_CA_FILE'])}")
        given = ", ".join(f"{name} {literal(variables[variable])}" for name, variable in S3_SECRET.items())
        connection.execute(f"create secret (type s3, use_ssl true, {given})")
    return connection
