"""The steps of a pipeline in the containers of its stages, and its entries in the SSH gate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homelab.errors import InputError
from homelab.model import Inventory, Pipeline, ServiceContext, Step
from homelab.model.options import SecretName, Size
from homelab.model.stages import ANALYTICS, BUILD, CHECK, FETCH, INGESTION, Stage, stage_of
from homelab.pipeline_contract import CLICKHOUSE_SETTINGS, EXIT, S3_SECRET
from homelab.pipelines.broker_contract import password_variable
from homelab.pipelines.clickhouse_login import BUILDER, clickhouse_secret, clickhouse_variables
from homelab.pipelines.exclusion_view import ExclusionView
from homelab.pipelines.layout import EXTENSIONS, SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.pipelines.published_files import read_by_others, readers_group
from homelab.pipelines.published_tables import project_files
from homelab.pipelines.schema_step import SchemaVersions
from homelab.pipelines.stream import stream_of, stream_steps
from homelab.pipelines.weather import BROKER_USER, broker_secret, cities_file, weather_variables
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.secrets import openweather_key
from homelab.steps import Directory, File, Group, Tree, User, Venv, WaitFor

# A project that a script builds may need tables that only this script makes, so dbt only parses it.
_PARSE = (
    "folder=$(mktemp -d); dbt --no-use-colors --quiet parse --project-dir {project} --profiles-dir {root} "
    '--profile {profile} --target-path "$folder" --log-path "$folder"; status=$?; rm -rf "$folder"; exit $status'
)
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


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of builds, for pipelines whose manifest has none."""

    memory: Size = Size("2GB")
    threads: int = 2


def gate_entries(pipeline: Pipeline, stages: Sequence[Stage]) -> Iterator[GateEntry]:
    """Yield the entries of a pipeline's stages in the SSH gate."""
    layout = Layout(pipeline)
    for command in pipeline.commands:
        if stage_of(command) in stages:
            yield GateEntry(pipeline.gate_entry(command), layout.program(command), layout.sandbox)


def account_steps(inventory: Inventory, stages: Sequence[Stage]) -> Iterator[Step]:
    """Yield the users of the pipelines, and for each pipeline that others read, the group of their users.

    Services that read it have the group in their units.
    """
    pipelines = inventory.pipelines
    for pipeline in pipelines:
        layout = Layout(pipeline)
        yield User(layout.sandbox.user, layout.root)
    for name in sorted(read_by_others(inventory) if ANALYTICS in stages else ()):
        yield Group(readers_group(name), [Layout(each).sandbox.user for each in pipelines if name in each.reads])


def _data_folder(layout: Layout, read: Collection[str]) -> Directory:
    """Return the step for the folder of a pipeline's data, which only its user writes.

    If others read it (`read`), they can open files in it, but not list them. Only the published files have a mode that
    lets them: see the sandbox's UMask=.
    """
    name, user = layout.pipeline.name, layout.sandbox.user
    if name in read:
        return Directory(layout.data, user, readers_group(name), 0o710)
    return Directory(layout.data, user, user, 0o750)


def pipeline_steps(
    context: ServiceContext, pipeline: Pipeline, ca_file: str, defaults: Limits, platform: Sequence[Step]
) -> Sequence[Step]:
    """Return the steps of a pipeline's stages on a container; the failure of one skips only those of the same pipeline.

    `platform` are the steps for the files that all pipelines use. Raises InputError if its packages are not locked.
    """
    if pipeline.lock_error:
        raise InputError(
            f"Cannot install the packages of the pipeline {pipeline.name}: {pipeline.lock_error}",
            f"{pipeline.requirements_in}.",
            f"Run `homelab pipeline lock {pipeline.name}`.",
        )
    layout, part = Layout(pipeline), part_of(pipeline)
    stages = context.inventory.stages_on(context.container)
    postgres = context.inventory.container_with("postgres")
    role = pipeline.grant_of(stages[0]).role
    text = environment_text(context, layout, stages, str(postgres.address), ca_file)
    environment = File(layout.environment, text, group=layout.sandbox.user, mode=0o640)
    secrets = File(layout.secrets, _secrets(context, layout), group=layout.sandbox.user, mode=0o640, secret=True)
    scripts = list(_scripts(context, layout, part))
    streams = INGESTION in stages and stream_of(context.inventory, pipeline)
    return (
        Directory(layout.root),
        _data_folder(layout, read_by_others(context.inventory) if ANALYTICS in stages else ()),
        layout.sandbox.file(),
        secrets,
        environment,
        *scripts,
        WaitFor(
            f"{postgres.name} accepts {role}",
            layout.run("psql -qAtc 'select 1'"),
            postgres.name,
            context.failed,
            context.wait_deadline(postgres),
            part=part,
        ),
        *_tables_and_models(context, layout, part, defaults),
        *(stream_steps(layout, part, [*platform, secrets, environment, *scripts]) if streams else ()),
    )


def part_of(pipeline: Pipeline) -> str:
    """Return the part of a container's steps that belongs to a pipeline, for errors."""
    return f"the pipeline {pipeline.name}"


def _scripts(context: ServiceContext, layout: Layout, part: str) -> Iterator[Step]:
    """Yield the scripts of a container's stages, their files and packages, and the program of each command."""
    pipeline, stages = layout.pipeline, context.inventory.stages_on(context.container)
    # homelab runs further scripts of the weather in both stages, such as that of its status.
    has_scripts = pipeline.is_weather or any(map(pipeline.has_scripts_in, stages))
    if has_scripts:
        files = Tree.of("", pipeline.folder / "scripts", within=pipeline.folder).files
        yield Tree(f"{layout.root}/scripts", files, validate=_PARSE_SCRIPTS, part=part)
    if INGESTION in stages and pipeline.is_weather and context.inventory.weather:
        yield from cities_file(context.inventory.weather, layout, part)
    yield Directory(f"{layout.root}/bin")
    for command in pipeline.commands:
        if stage_of(command) in stages:
            yield _program(layout, command)
    if has_scripts and pipeline.requirements is not None:
        yield Venv(layout.venv, pipeline.requirements, part=part)


def _program(layout: Layout, command: str) -> File:
    # The check of a fetch that stored a part of the rows fails the run after the build.
    tolerated = EXIT.partial if command == FETCH and CHECK in layout.pipeline.commands else None
    words = program_words(layout, command)
    text = render("pipelines/command.j2", layout=layout, venv=SHARED_VENV, words=words, tolerated=tolerated)
    return File(layout.program(command), text, mode=0o755)


def _tables_and_models(context: ServiceContext, layout: Layout, part: str, defaults: Limits) -> Iterator[Step]:
    stages, corrections = context.inventory.stages_on(context.container), layout.pipeline.corrections
    versions = [] if layout.pipeline.is_weather else [SchemaVersions(layout, part)]
    views = [ExclusionView(layout, corrections, part, triggered_by=versions)] if corrections else []
    tables: Sequence[SchemaVersions | ExclusionView] = (*versions, *views)
    made: Sequence[Step] = tables
    if INGESTION not in stages:
        made = list(_made_elsewhere(context, layout, [each.is_current for each in tables]))
    yield from made
    triggers = [each for each in made if not each.is_wait]  # a wait without a probe is always pending
    if layout.pipeline.has_dbt and ANALYTICS in stages:
        profiles = File(f"{layout.root}/profiles.yml", profiles_yml(layout, defaults))
        yield profiles
        folder = layout.pipeline.folder
        files = project_files(folder / "dbt", layout.pipeline.reads, within=folder)
        # The earlier project stays in use until dbt can build the new one.
        check = layout.run(check_words(layout, f"{layout.project}.new"))
        yield Tree(layout.project, files, validate=check, triggered_by=[*triggers, profiles], part=part)


def _made_elsewhere(context: ServiceContext, layout: Layout, conditions: Sequence[str]) -> Iterator[Step]:
    """Yield a file that changes with the tables that another container makes, and the wait for these tables."""
    if not conditions:
        return
    query, container = f"{layout.root}/tables.sql", context.inventory.container_of(INGESTION)
    yield File(query, f"select {' and '.join(conditions)};\n".encode())
    yield WaitFor(
        f"{container.name} has made the tables of {layout.pipeline.name}",
        f"{layout.run(f'psql -X -qAt -f {query}')} | grep -qx t",
        container.name,
        context.failed,
        context.wait_deadline(container),
        part=part_of(layout.pipeline),
    )


def check_words(layout: Layout, project: str) -> str:
    """Return shell text that builds the models of a project without rows, or parses them, and leaves nothing."""
    if layout.pipeline.has_own_build:
        return _PARSE.format(project=project, root=layout.root, profile=layout.pipeline.name)
    return f"{program_words(layout, BUILD, project)} --check"


def program_words(layout: Layout, command: str, project: str = "") -> str:
    """Return shell text that runs a command, with the pipeline's variables; a build tests and publishes, too."""
    if script := layout.pipeline.scripts.get(command):
        return f"{layout.venv}/bin/python {layout.root}/{script}"
    return (
        f"{SHARED_VENV}/bin/python {SHARED_SCRIPTS}/build_project.py --project {project or layout.project} "
        f"--profiles {layout.root} --profile {layout.pipeline.name} --data {layout.data}"
        f"{' --exclusions' if layout.pipeline.corrections else ''}"
    )


def environment_text(
    context: ServiceContext, layout: Layout, stages: Sequence[Stage], postgres: str, ca_file: str
) -> bytes:
    """Return pipeline.env for the commands of some stages; `postgres` is the host of the server."""
    pipeline = layout.pipeline
    storage = context.inventory.object_storage(pipeline.name)
    return render(
        "pipelines/pipeline.env.j2",
        pipeline=pipeline,
        layout=layout,
        postgres=postgres,
        ca_file=ca_file,
        shared_scripts=SHARED_SCRIPTS,
        weather=weather_variables(context, layout, ca_file),
        storage=storage.variables if storage else {},
        extensions=EXTENSIONS,
        clickhouse=clickhouse_variables(context, ca_file) if pipeline.clickhouse else {},
        variables=pipeline.plain_variables,
        user=pipeline.grant_of(stages[0]).role,
        fetches=INGESTION in stages,
        builds=ANALYTICS in stages,
    )


def _secrets(context: ServiceContext, layout: Layout) -> bytes:
    """Return secrets.env: only the secrets of a container's stages. Raises InputError for one that is not set.

    Those of `environment` are for scripts, so a container that only builds has them if the build is a script.
    """
    stages, weather = context.inventory.stages_on(context.container), context.inventory.weather
    names = secret_variables(context.inventory, layout.pipeline, stages)
    values = context.user_secrets(name for name in names.values() if isinstance(name, SecretName))
    store = context.secret_store
    return render(
        "pipelines/secrets.env.j2",
        api_key=openweather_key(weather) if weather and fetches_weather(layout.pipeline, stages) else None,
        secrets={
            key: values[name] if isinstance(name, SecretName) else store.secret(name) for key, name in names.items()
        },
    )


def fetches_weather(pipeline: Pipeline, stages: Sequence[Stage]) -> bool:
    """Return True if the commands of these stages need OPENWEATHER_API_KEY, which is in a file of the user."""
    return pipeline.is_weather and INGESTION in stages


def secret_variables(
    inventory: Inventory, pipeline: Pipeline, stages: Sequence[Stage]
) -> Mapping[str, str | SecretName]:
    """Return the secret variables of some stages, each with the name of its secret in the store."""
    storage, weather = inventory.object_storage(pipeline.name), inventory.weather
    to_broker = weather and weather.to == "broker" and fetches_weather(pipeline, stages)
    for_scripts = INGESTION in stages or pipeline.has_own_build
    return {
        **({password_variable(inventory): broker_secret(BROKER_USER)} if to_broker else {}),
        "PGPASSWORD": f"postgres-{pipeline.grant_of(stages[0]).role}",
        **({"DBT_PGPASSWORD": f"postgres-{pipeline.reader}"} if ANALYTICS in stages else {}),
        **({"S3_SECRET_ACCESS_KEY": storage.secret} if storage else {}),
        **({"CLICKHOUSE_PASSWORD": clickhouse_secret(BUILDER)} if pipeline.clickhouse and ANALYTICS in stages else {}),
        **(pipeline.secrets if for_scripts else {}),
    }


def profiles_yml(layout: Layout, defaults: Limits, extensions: str = EXTENSIONS) -> bytes:
    """Return profiles.yml, with the name of the pipeline as its profile."""
    return render(
        "pipelines/profiles.yml.j2",
        profile=layout.pipeline.name,
        warehouse=f"{{{{ env_var('PIPELINE_WAREHOUSE', '{layout.data}/warehouse.duckdb') }}}}",
        threads=layout.pipeline.threads or defaults.threads,
        extension_directory=extensions,
        memory_limit=layout.pipeline.memory or defaults.memory,
        reads=list(layout.pipeline.reads),
        lake=layout.pipeline.lake is not None,
        s3_secret=S3_SECRET,
        clickhouse_settings=CLICKHOUSE_SETTINGS,
        clickhouse=layout.pipeline.clickhouse,
    )
