"""The steps of a pipeline in the container that runs it, and its entries in the SSH gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from homelab.errors import InputError
from homelab.model import Pipeline, ServiceContext, Step
from homelab.model.pipelines import BUILD
from homelab.pipelines.exclusion_view import ExclusionView
from homelab.pipelines.layout import EXTENSIONS, FOLDER, SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.pipelines.published_tables import project_files
from homelab.pipelines.schema_step import SchemaVersions
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.steps import Directory, File, Group, Tree, User, Venv, WaitFor

# Without running them; the error names the file and the line.
_PARSE_SCRIPTS = (
    "find \"$new\" -name '*.py' -exec /usr/bin/python3 -c "
    "'import ast, sys; [ast.parse(open(path, \"rb\").read(), path) for path in sys.argv[1:]]' {} +"
)


@dataclass(frozen=True, slots=True)
class GateEntry:
    """A command that Airflow's key may run: its name, the program, and the sandbox in which it runs."""

    name: str
    program: str
    sandbox: Sandbox


def gate_entries(pipeline: Pipeline) -> Sequence[GateEntry]:
    """Return the entries of a pipeline in the SSH gate."""
    layout = Layout(pipeline)
    return [GateEntry(pipeline.gate_entry(each), layout.program(each), layout.sandbox) for each in pipeline.commands]


def account_steps(pipelines: Sequence[Pipeline]) -> Iterator[Step]:
    """Yield the users of the pipelines, and for each pipeline that others read, the group of their users."""
    for pipeline in pipelines:
        layout = Layout(pipeline)
        yield User(layout.sandbox.user, layout.data)
    for name in sorted({name for pipeline in pipelines for name in pipeline.reads}):
        yield Group(_readers(name), [Layout(each).sandbox.user for each in pipelines if name in each.reads])


def data_folder(name: str, path: str, user: str, pipelines: Sequence[Pipeline]) -> Directory:
    """Return the step for the folder of a pipeline's data, which only its user writes.

    The users of the pipelines that read it can open files in it, but not list them. Only the published files have a
    mode that lets them: see the sandbox's UMask=.
    """
    if any(name in each.reads for each in pipelines):
        return Directory(path, user, _readers(name), 0o710)
    return Directory(path, user, user, 0o750)


def _readers(name: str) -> str:
    return f"readers-{name}"


def pipeline_steps(context: ServiceContext, pipeline: Pipeline, ca_file: str) -> Sequence[Step]:
    """Return the steps of a pipeline; the failure of one skips only those of the same pipeline.

    Raises InputError if its packages are not locked.
    """
    if pipeline.lock_error:
        raise InputError(
            f"Cannot install the packages of the pipeline {pipeline.name}: {pipeline.lock_error}",
            f"{pipeline.requirements_in}.",
            f"Run `homelab pipeline lock {pipeline.name}`.",
        )
    layout, part = Layout(pipeline), part_of(pipeline)
    postgres = context.inventory.container_with("postgres")
    files = Tree.of("", pipeline.folder / "scripts", within=pipeline.folder).files
    scripts = Tree(f"{layout.root}/scripts", files, validate=_PARSE_SCRIPTS, part=part)
    environment = File(
        layout.environment, _environment(context, layout, ca_file), group=layout.sandbox.user, mode=0o640
    )
    return (
        Directory(FOLDER),
        Directory(layout.root),
        data_folder(pipeline.name, layout.data, layout.sandbox.user, context.inventory.pipelines),
        layout.sandbox.file(),
        File(layout.secrets, _secrets(context, layout), group=layout.sandbox.user, mode=0o640, secret=True),
        environment,
        scripts,
        *_programs(layout),
        *([Venv(layout.venv, pipeline.requirements, part=part)] if pipeline.requirements is not None else []),
        WaitFor(
            f"{postgres.name} accepts {pipeline.writer}",
            layout.run("psql -qAtc 'select 1'"),
            postgres.name,
            context.failed,
            context.wait_deadline(postgres),
            part=part,
        ),
        *_tables_and_models(layout, part),
    )


def part_of(pipeline: Pipeline) -> str:
    """Return the part of a container's steps that belongs to a pipeline, for errors."""
    return f"the pipeline {pipeline.name}"


def _tables_and_models(layout: Layout, part: str) -> Iterator[Step]:
    tables = SchemaVersions(layout, part)
    yield tables
    triggers: list[Step] = [tables]
    if layout.pipeline.corrections:
        triggers.append(ExclusionView(layout, layout.pipeline.corrections, part, triggered_by=[tables]))
        yield triggers[-1]
    if layout.pipeline.has_dbt:
        profiles = File(f"{layout.root}/profiles.yml", profiles_yml(layout))
        yield profiles
        folder = layout.pipeline.folder
        files = project_files(folder / "dbt", layout.pipeline.reads, within=folder)
        # The earlier project stays in use until dbt can build the new one.
        check = layout.run(f"{build_command(layout, f'{layout.project}.new')} --check")
        yield Tree(layout.project, files, validate=check, triggered_by=[*triggers, profiles], part=part)


def build_command(layout: Layout, project: str = "") -> str:
    """Return shell text that builds the dbt project, tests and publishes, with the pipeline's variables."""
    return (
        f"{SHARED_VENV}/bin/python {SHARED_SCRIPTS}/build_project.py --project {project or layout.project} "
        f"--profiles {layout.root} --profile {layout.pipeline.name} --data {layout.data}"
        f"{' --exclusions' if layout.pipeline.corrections else ''}"
    )


def _programs(layout: Layout) -> Iterator[Step]:
    """Yield the program of each command."""
    yield Directory(f"{layout.root}/bin")
    for command in layout.pipeline.commands:
        words = (
            build_command(layout)
            if command == BUILD and layout.pipeline.has_dbt
            else f"{layout.venv}/bin/python {layout.root}/{layout.pipeline.scripts[command]}"
        )
        text = render("pipelines/command.j2", layout=layout, venv=SHARED_VENV, words=words)
        yield File(layout.program(command), text, mode=0o755)


def _environment(context: ServiceContext, layout: Layout, ca_file: str) -> bytes:
    return render(
        "pipelines/pipeline.env.j2",
        pipeline=layout.pipeline,
        layout=layout,
        postgres=context.inventory.container_with("postgres").address,
        ca_file=ca_file,
        variables=layout.pipeline.plain_variables,
    )


def _secrets(context: ServiceContext, layout: Layout) -> bytes:
    """Return secrets.env. Raises InputError for a secret of `environment` that is not set."""
    values = context.user_secrets(layout.pipeline.secrets.values())
    return render(
        "pipelines/secrets.env.j2",
        password=context.secret_store.secret(f"postgres-{layout.pipeline.writer}").reveal(),
        dbt_password=context.secret_store.secret(f"postgres-{layout.pipeline.reader}").reveal(),
        secrets={key: values[name] for key, name in layout.pipeline.secrets.items()},
    )


def profiles_yml(layout: Layout, extensions: str = EXTENSIONS) -> bytes:
    """Return profiles.yml, with the name of the pipeline as its profile."""
    return render(
        "analytics/profiles.yml.j2",
        profile=layout.pipeline.name,
        warehouse=f"{{{{ env_var('PIPELINE_WAREHOUSE', '{layout.data}/warehouse.duckdb') }}}}",
        threads=layout.pipeline.threads,
        extension_directory=extensions,
        memory_limit=layout.pipeline.memory,
        reads=list(layout.pipeline.reads),
    )
