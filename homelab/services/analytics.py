"""The service analytics: the ingestion script, and dbt + DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar

from homelab.errors import InputError
from homelab.host import Result, argv
from homelab.model import DatabaseGrant, Endpoint, Health, ManagedResource, Service, ServiceContext, Step
from homelab.model.endpoints import SSH_PORT
from homelab.model.options import Option, Size
from homelab.paths import bundled_path
from homelab.pipeline_contract import COMMANDS, EXIT, TASKS
from homelab.pipelines.build_report import failed_nodes
from homelab.pipelines.container_steps import GateEntry, account_steps, data_folder, gate_entries, pipeline_steps
from homelab.pipelines.layout import EXTENSIONS, FOLDER, SHARED_SCRIPTS, SHARED_VENV, WEATHER, Layout
from homelab.pipelines.layout import PLATFORM as ROOT
from homelab.pipelines.pipeline_metrics import labelled
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.secrets import openweather_key
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import Command, Directory, File, Packages, Tree, User, UvInstall, Venv, WaitFor

SCRIPTS = f"{ROOT}/scripts"
PUBLISHED = f"{ROOT}/data/published.duckdb"
_ENVIRONMENT = f"{ROOT}/pipeline.env"
_SECRETS = f"{ROOT}/secrets.env"
PROJECT = f"{ROOT}/dbt/analytics_project"
# In a temporary folder, as a build may be running.
_PARSE = (
    f"folder=$(mktemp -d); dbt --no-use-colors --quiet parse --project-dir {PROJECT} --profiles-dir {ROOT}/dbt "
    '--target-path "$folder" --log-path "$folder"; status=$?; rm -rf "$folder"; exit $status'
)
# Compiled files would be foreign files in the tree of scripts: hence -B.
_PYTHON = (f"{ROOT}/venv/bin/python", "-B")
# Installed next to the old one first, so that it is never incomplete.
_INSTALL_EXTENSION = (
    f"rm -rf {EXTENSIONS}.new && {argv(*_PYTHON)} {SHARED_SCRIPTS}/install_extension.py {EXTENSIONS}.new && "
    f"rm -rf {EXTENSIONS} && mv -T {EXTENSIONS}.new {EXTENSIONS}"
)
SANDBOX = Sandbox("analytics", (f"{ROOT}/data",))
_WRAPPER = "/usr/local/sbin/homelab-pipeline"
_LONG = 1 << 16  # bytes: a longer list of cities is compared by its hash, as its diff would be unreadable


def _cities_file(path: Path) -> str:
    return f"{ROOT}/cities{path.suffix}"


def as_analytics(command: str) -> str:
    """Return shell text that runs a command in the pipeline's sandbox, with its environment and venv."""
    script = f"set -a; . {_ENVIRONMENT}; PATH={ROOT}/venv/bin:$PATH; cd {ROOT}/data; {command}"
    return SANDBOX.run("/bin/sh", "-c", script)


def read_data(name: str) -> str:
    """Return shell text that prints the end of a file of the pipeline's data folder."""
    return SANDBOX.read(f"{ROOT}/data/{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics(Service):
    """The ingestion script, dbt and DuckDB."""

    requires: ClassVar[tuple[str, ...]] = ("postgres",)
    runs_pipeline: ClassVar[bool] = True

    threads: Annotated[int, Option("Number of models that dbt builds in parallel.", low=1)] = 2
    memory_limit: Annotated[Size, Option("Memory that DuckDB may use.")] = Size("2GB")

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Append and read raw observations for the ingestion, and read them for dbt."""
        return (
            DatabaseGrant("project_data", "analytics", "append", "raw"),
            DatabaseGrant("project_data", "dbt", "read", "raw"),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Return SSH, over which Airflow starts the pipeline."""
        return (Endpoint(name="ssh", port=SSH_PORT, description="SSH", audience="dependents"),)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the commands for the metrics that the builds of the pipelines wrote."""
        found = {"weather": read_data("metrics.prom")}
        found |= {each.name: Layout(each).read_data("metrics.prom") for each in context.inventory.pipelines}
        return {f"pipeline-{name}": labelled(name, command) for name, command in found.items()}

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the warehouse, the published marts and the spool, and that of the user's pipelines."""
        return (f"{ROOT}/data", FOLDER)

    def units(self) -> Sequence[str]:
        """Return none: Airflow starts each run."""
        return ()

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, scripts, dbt project, and the gate for Airflow's key."""
        weather, requirements = bundled_path("pipelines/weather"), bundled_path("pipelines/shared/requirements")
        venv = Venv(SHARED_VENV, (requirements / "analytics.txt").read_bytes())
        postgres = context.inventory.container_with("postgres")
        project = Tree.of(PROJECT, weather / "dbt")
        profiles = File(
            f"{ROOT}/dbt/profiles.yml",
            render(
                "analytics/profiles.yml.j2",
                profile="analytics_project",
                warehouse=f"{ROOT}/data/warehouse.duckdb",
                threads=self.threads,
                extension_directory=EXTENSIONS,
                memory_limit=self.memory_limit,
            ),
        )
        return (
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus", "sudo"]),
            User("analytics", "/home/analytics", "/bin/sh"),
            *account_steps(context.inventory.pipelines),
            Directory("/home/analytics"),
            Directory(ROOT),
            Directory(f"{ROOT}/bin"),
            Directory(f"{ROOT}/dbt"),
            data_folder(WEATHER, f"{ROOT}/data", "analytics", context.inventory.pipelines),
            UvInstall((requirements / "uv.txt").read_bytes()),
            venv,
            Tree.of(SHARED_SCRIPTS, bundled_path("pipelines/shared/scripts")),
            Tree.of(SCRIPTS, weather / "scripts"),
            project,
            profiles,
            SANDBOX.file(),
            Command(
                "DuckDB's postgres extension",
                f"test -n \"$(find {EXTENSIONS} -name 'postgres_scanner*' -print -quit 2>/dev/null)\"",
                _INSTALL_EXTENSION,
                triggered_by=[venv],
                makes=[ManagedResource("made", EXTENSIONS)],
            ),
            *self._cities(context),
            File(_SECRETS, self._secrets(context), group="analytics", mode=0o640, secret=True),
            File(_ENVIRONMENT, self._environment(context), group="analytics", mode=0o640),
            *self._gate(context),
            WaitFor(
                f"{postgres.name} accepts analytics",
                as_analytics("psql -qAtc 'select 1'"),
                postgres.name,
                context.failed,
                context.wait_deadline(postgres),
            ),
            # Not earlier: while a first deploy waits for Postgres here, it installs Airflow, which takes longest.
            Command("dbt can read the project", "true", as_analytics(_PARSE), triggered_by=[venv, project, profiles]),
            # Last, so that Airflow can log in only when the pipeline can run.
            Directory("/home/analytics/.ssh"),
            *self._authorized_keys(context),
            *chain.from_iterable(pipeline_steps(context, each, CA_FILE) for each in context.inventory.pipelines),
        )

    def _gate(self, context: ServiceContext) -> Iterator[Step]:
        """Yield the weather's commands, the program that runs those of all pipelines, and the gate before it."""
        for name in COMMANDS:
            text = render(f"analytics/{name}.j2", root=ROOT, project=PROJECT, tasks=TASKS, exit=EXIT)
            yield File(f"{ROOT}/bin/{name}", text, mode=0o755)
        entries = [GateEntry(name, f"{ROOT}/bin/{name}", SANDBOX) for name in COMMANDS]
        entries += chain.from_iterable(map(gate_entries, context.inventory.pipelines))
        names = [entry.name for entry in entries]
        yield File(f"{ROOT}/bin/gate", render("analytics/gate.j2", wrapper=_WRAPPER, commands=names), mode=0o755)
        yield File(_WRAPPER, render("analytics/homelab-pipeline.j2", entries=entries), mode=0o755)
        yield File(
            "/etc/sudoers.d/homelab-pipeline",
            render("analytics/sudoers.j2", wrapper=_WRAPPER, commands=names),
            mode=0o440,
            validate='/usr/sbin/visudo -c -q -f "$new"',
        )

    def _cities(self, context: ServiceContext) -> Iterator[Step]:
        """Yield the file of cities, if the inventory has one; the ingestion script validates it."""
        path = context.inventory.weather.cities_file
        if path is None:
            return
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"Cannot read the file of cities: {error.strerror}",
                f"{path}, from `pipelines: weather: cities:` in the inventory.",
                "Correct the path, or the permissions of the file.",
            ) from None
        words = ("env", f"PYTHONPATH={SHARED_SCRIPTS}", *_PYTHON, f"{SCRIPTS}/ingest_weather.py", "--check")
        check = SANDBOX.run(*words)
        # The script recognises CSV and JSON by the suffix.
        copy = f'"$new{path.suffix}"'
        yield File(
            _cities_file(path),
            content,
            secret=len(content) > _LONG,
            validate=f'ln -f "$new" {copy}; {check} {copy} || {{ rm -f {copy}; exit 1; }}; rm -f {copy}',
        )

    def _environment(self, context: ServiceContext) -> bytes:
        weather = context.inventory.weather
        cities = [{k: v for k, v in asdict(city).items() if v is not None} for city in weather.cities]
        return render(
            "analytics/pipeline.env.j2",
            root=ROOT,
            shared_scripts=SHARED_SCRIPTS,
            weather=weather,
            cities=cities,
            cities_file=weather.cities_file and _cities_file(weather.cities_file),
            secrets=_SECRETS,
            postgres=context.inventory.container_with("postgres").address,
            ca_file=CA_FILE,
        )

    def _secrets(self, context: ServiceContext) -> bytes:
        return render(
            "analytics/secrets.env.j2",
            api_key=openweather_key(context.inventory.weather).reveal(),
            password=context.secret_store.secret("postgres-analytics").reveal(),
            dbt_password=context.secret_store.secret("postgres-dbt").reveal(),
        )

    def _authorized_keys(self, context: ServiceContext) -> Iterator[Step]:
        """Yield the file that admits Airflow's key, if a container has Airflow."""
        for container in context.inventory.containers_with("airflow"):
            _, public = context.secret_store.key_pair("airflow")
            line = f'restrict,from="{container.address}",command="{ROOT}/bin/gate" {public}\n'
            yield File("/home/analytics/.ssh/authorized_keys", line.encode())

    def health_probes(self) -> Sequence[str]:
        """Return the command that reports the last build and the marts."""
        return (as_analytics(argv("python", f"{SCRIPTS}/report.py", "--database", PUBLISHED)) + " 2>&1",)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if the last build succeeded and its marts are published."""
        if not answers[0].ok:
            return Health(False, f"no report: {answers[0].text[-200:]}")
        facts = json.loads(answers[0].text.splitlines()[-1])
        build = facts.get("last_build")
        if not build:
            return Health(False, "no build yet: `homelab pipeline run` makes the first one", facts, ready=True)
        marts = "; ".join(f"{mart['name']} {mart['rows']} rows to {mart['newest']}" for mart in facts["marts"])
        tests = f"{build['tests_passed']} tests passed, {build['tests_failed']} failed"
        if build["status"] != "success":
            failed = failed_nodes(build)
            more = f" and {len(failed) - 1} more (`homelab pipeline status`)" if len(failed) > 1 else ""
            text = f"build failed at {build['finished']}, {tests}: {failed[0] if failed else 'dbt has not run'}{more}"
            return Health(False, f"{text}; fix it, then `homelab pipeline run`", facts, ready=True)
        if facts.get("published_bytes") is None:
            text = f"the published marts are missing, although a build succeeded at {build['finished']}"
            return Health(False, f"{text}: `homelab pipeline run` publishes them again", facts, ready=True)
        notes = [f"{facts['issues']} implausible values are left out"] if facts.get("issues") else []
        if held := facts.get("held_back"):
            notes.append(f"a transaction has been open since {held['since']}: {held['transaction']}")
        text = "; ".join([f"built {build['finished']}, {tests}", marts, *notes])
        return Health(True, text, facts, ready=True)
