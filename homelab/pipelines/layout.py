"""The folders, files and limits of a pipeline in the container that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homelab.host import argv
from homelab.model import Pipeline
from homelab.sandbox import Sandbox

PLATFORM = "/opt/analytics-platform"
SHARED_SCRIPTS = f"{PLATFORM}/scripts"
SHARED_VENV = f"{PLATFORM}/venv"
EXTENSIONS = f"{PLATFORM}/extensions"  # of DuckDB
CLICKHOUSE_VENV = f"{PLATFORM}/clickhouse-venv"  # dbt with the adapter of ClickHouse
FOLDER = f"{PLATFORM}/pipelines"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one pipeline; only `data` belongs to its user."""

    pipeline: Pipeline

    @property
    def root(self) -> str:
        """The folder of everything that belongs to the pipeline."""
        return f"{FOLDER}/{self.pipeline.name}"

    @property
    def data(self) -> str:
        """The folder that its commands write."""
        return f"{self.root}/data"

    @property
    def published(self) -> str:
        """The DuckDB file for readers."""
        return f"{self.data}/published.duckdb"

    @property
    def reads(self) -> Mapping[str, str]:
        """The published files of the pipelines that it reads, by name."""
        return {name: self.published_by(name) for name in self.pipeline.reads}

    def published_by(self, name: str) -> str:
        """Return the published file of another pipeline."""
        return f"{FOLDER}/{name}/data/published.duckdb"

    @property
    def environment(self) -> str:
        """The file with its variables, for the shell."""
        return f"{self.root}/pipeline.env"

    @property
    def secrets(self) -> str:
        """The file with its passwords, which `environment` reads."""
        return f"{self.root}/secrets.env"

    @property
    def project(self) -> str:
        """The folder of its dbt project."""
        return f"{self.root}/dbt"

    @property
    def venv(self) -> str:
        """The venv of its scripts: its own if it has locked packages, else that of all pipelines."""
        return SHARED_VENV if self.pipeline.requirements is None else f"{self.root}/venv"

    @property
    def sandbox(self) -> Sandbox:
        """The user and the limits of its commands."""
        return Sandbox(f"pipeline-{self.pipeline.name}", (self.data,))

    def program(self, command: str) -> str:
        """Return the path of a command's program."""
        return f"{self.root}/bin/{command}"

    def run(self, command: str) -> str:
        """Return shell text that runs a command in the sandbox, with the pipeline's variables and the shared venv."""
        return self.sandbox.run("/bin/sh", "-c", self.script(command))

    def script(self, command: str) -> str:
        """Return shell text that runs a command with the pipeline's variables and the shared venv."""
        return f"set -a; . {self.environment}; PATH={SHARED_VENV}/bin:$PATH; cd {self.data}; {command}"

    @property
    def docs(self) -> str:
        """The command that generates the documentation of its dbt project, `docs.html` in its data, after a change."""
        folders = ("--project", self.project, "--profiles", self.root, "--data", self.data)
        return argv("python", f"{SHARED_SCRIPTS}/dbt_docs.py", *folders, "--profile", self.pipeline.name)

    def read_data(self, name: str) -> str:
        """Return shell text that prints the end of a file of the folder of data."""
        return self.sandbox.read(f"{self.data}/{name}")
