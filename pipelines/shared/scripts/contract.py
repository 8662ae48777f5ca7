"""The exit statuses and names that homelab relies on. contract.json defines them; homelab reads the same file."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text())


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The exit statuses of all scripts, by meaning."""

    success: int
    failed: int
    nothing_published: int
    partial: int  # some rows are stored, others failed
    busy: int  # another run holds the lock
    key_refused: int
    build_failed: int  # a model or a test has failed: a repetition fails again
    bad_input: int  # options, configuration or a file; not 2, with which Python itself ends if a script is missing
    not_due: int  # too few new rows wait for a build


EXIT = ExitStatus(**_CONTRACT["exit_status"])
# ClickHouse's databases: `landed` raw rows; `built` models, named as the schemas of the file; `published`: the marts of
# the last tested build.
CLICKHOUSE_DATABASES = _CONTRACT["clickhouse_databases"]
# SQL of ClickHouse that gives null where DuckDB gives null, and times in UTC.
CLICKHOUSE_SETTINGS = _CONTRACT["clickhouse_settings"]
# The options of DuckDB's secret for object storage, with the variables that have their values.
S3_SECRET = _CONTRACT["s3_secret"]


class Parser(ArgumentParser):
    """A parser of options that ends the script with the status for bad input."""

    def error(self, message: str) -> NoReturn:
        """Print the error and end."""
        self.exit(EXIT.bad_input, f"error: {message}\n")
