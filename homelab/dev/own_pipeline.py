"""A user's pipeline on this machine, with the roles, tables and commands of a deploy."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from homelab.dev.install import Installed, install_scripts
from homelab.dev.local_stack import DATABASE, Stack, shared_path
from homelab.host import Result
from homelab.model import Pipeline, Secret, SecretStore, Step
from homelab.model.inventory import WEATHER
from homelab.model.secret_store import user_secrets
from homelab.model.stages import BUILD, STAGES
from homelab.paths import bundled_path
from homelab.pipelines.container_steps import Limits, profiles_yml
from homelab.pipelines.exclusion_view import ExclusionView
from homelab.pipelines.layout import Layout
from homelab.pipelines.published_tables import project_files
from homelab.pipelines.schema_step import SchemaVersions
from homelab.progress import Progress
from homelab.services.database_grants import grants, schema_of
from homelab.steps import Role


@dataclass(frozen=True, slots=True)
class LocalLayout(Layout):
    """The layout of a pipeline in a folder of this machine, without a sandbox."""

    folder: Path

    @property
    def root(self) -> str:
        """See Layout."""
        return str(self.folder)

    @property
    def project(self) -> str:
        """See Layout. A project that reads other pipelines is a copy with their sources."""
        return str(self.folder / "dbt" if self.pipeline.reads else self.pipeline.folder / "dbt")

    def published_by(self, name: str) -> str:
        """See Layout."""
        folder = self.folder.parents[1] if name == WEATHER else self.folder.parent / name
        return str(folder / "data" / "published.duckdb")

    def run(self, command: str) -> str:
        """See Layout."""
        return shlex.join(["sh", "-c", f"set -a; . {self.environment}; cd {self.data}; {command}"])


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """A host that is this machine; its commands have further variables, which no process list shows."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    name: str = "this machine"

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        done = subprocess.run(
            ["sh", "-c", command],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **self.variables},
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch."""
        return [self.run(command) for command in commands]

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""


@dataclass(frozen=True, slots=True)
class LocalPipeline:
    """A pipeline that is set up on the local PostgreSQL."""

    layout: LocalLayout
    installed: Installed
    scripts_python: Path

    def command(self, name: str) -> str:
        """Return shell text that runs a command of the pipeline."""
        pipeline = self.layout.pipeline
        if name == BUILD and pipeline.has_dbt:
            folders = ("--profiles", self.layout.root, "--profile", pipeline.name, "--data", self.layout.data)
            script = str(bundled_path("pipelines/shared/scripts/build_project.py"))
            words = [str(self.installed.python), script, "--project", self.layout.project, *folders]
            words += ["--exclusions"] if pipeline.corrections else []
        else:
            words = [str(self.scripts_python), "-B", str(pipeline.folder / pipeline.scripts[name])]
        return self.layout.run(shlex.join(words))

    def unpublished(self) -> Sequence[str]:
        """Return the pipelines that it reads and that have published nothing on this machine."""
        return [name for name, file in self.layout.reads.items() if not Path(file).exists()]

    def dbt(self, words: Sequence[str], further: Mapping[str, str] | None = None) -> str:
        """Return shell text that runs dbt on the project, as the role that may only read.

        `further` variables replace those of the project's folders.
        """
        layout = self.layout
        options = {
            "DBT_PROJECT_DIR": layout.project,
            "DBT_PROFILES_DIR": layout.root,
            "DBT_TARGET_PATH": f"{layout.data}/target",
            "DBT_LOG_PATH": f"{layout.data}/logs",
        }
        login = "PGUSER=$DBT_PGUSER PGPASSWORD=$DBT_PGPASSWORD"
        options |= {f"READS_{name}": ":memory:" for name in self.unpublished()}
        options |= further or {}
        variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in options.items())
        return layout.run(f"{login} {variables} {shlex.join([str(self.installed.python.with_name('dbt')), *words])}")


def folder_of_pipeline(folder: Path, name: str) -> Path:
    """Return the folder of a pipeline in the folder of `homelab dev`."""
    return folder / "pipelines" / name


def set_up(stack: Stack, pipeline: Pipeline, secrets: SecretStore, progress: Progress) -> LocalPipeline:
    """Create the roles, the schema and its tables, as a deploy does. Raises HomelabError."""
    values = user_secrets(secrets, pipeline.secrets.values())
    layout = LocalLayout(pipeline, folder_of_pipeline(stack.folder, pipeline.name))
    Path(layout.data).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_environment(stack, layout, values)
    superuser = {**stack.cluster.environment("postgres"), "PGOPTIONS": "-c client_min_messages=warning"}
    del superuser["PGDATABASE"]
    psql, host = shlex.quote(stack.cluster.program("psql")), ThisMachine(superuser)
    for role in (pipeline.writer, pipeline.reader):
        Role(role, Secret(stack.cluster.password), psql).apply(host)
    own, read = map(pipeline.grant_of, STAGES)  # a lake needs S3: builds are in a file here
    for step in (schema_of(own, psql), grants(read, psql, owner=own.role)):
        step.apply(host)
    for each in schema_steps(layout):
        if each.check(host.batch(each.probes())):
            each.apply(host)
    python = stack.installed.python
    if pipeline.requirements is not None:
        python = install_scripts(stack.folder, pipeline.name, pipeline.requirements_lock, progress)
    return LocalPipeline(layout, stack.installed, python)


def schema_steps(layout: Layout) -> Iterator[Step]:
    """Yield the steps for the tables of a pipeline, and for its exclusions."""
    yield SchemaVersions(layout)
    if layout.pipeline.corrections:
        yield ExclusionView(layout, layout.pipeline.corrections)


def _write_environment(stack: Stack, layout: LocalLayout, secrets: Mapping[str, Secret]) -> None:
    pipeline, cluster = layout.pipeline, stack.cluster
    variables = {
        **pipeline.plain_variables,
        **{key: secrets[name].reveal() for key, name in pipeline.secrets.items()},
        **cluster.environment(DATABASE, pipeline.writer),
        "PIPELINE": pipeline.name,
        "PIPELINE_DATA": layout.data,
        "PYTHONPATH": shared_path(),
        "PGOPTIONS": f"-csearch_path={pipeline.schema}",
        "DBT_PGUSER": pipeline.reader,
        "DBT_PGPASSWORD": cluster.password,
        **{f"READS_{name}": file for name, file in layout.reads.items()},
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PATH": f"{cluster.home}/bin:{os.environ['PATH']}",
    }
    path = Path(layout.environment)
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items()))
    profiles = profiles_yml(layout, Limits(), str(stack.installed.extensions))
    (layout.folder / "profiles.yml").write_bytes(profiles)
    if pipeline.reads:
        write_project(layout)


def write_project(layout: LocalLayout) -> None:
    """Copy the dbt project with the sources of the pipelines that it reads; the user's folder stays as it is."""
    copy_project(layout.pipeline.folder / "dbt", layout.pipeline.reads, Path(layout.project))


def copy_project(project: Path, reads: Mapping[str, Path], target: Path) -> None:
    """Copy a dbt project, with the sources of the pipelines that it reads, in place of an earlier copy."""
    shutil.rmtree(target, ignore_errors=not target.exists())
    for name, content in project_files(project, reads).items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
