"""The ingestion script and dbt + DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from homelab.errors import InputError
from homelab.host import Result, argv
from homelab.model import DatabaseGrant, Health, ManagedResource, Port, Service, ServiceContext, Step
from homelab.model.options import Option, Size
from homelab.paths import bundled_path
from homelab.pipeline_contract import COMMANDS, EXIT, TASKS
from homelab.render import render
from homelab.secrets import openweather_key
from homelab.steps import Command, Directory, File, Packages, Tree, User, UvInstall, Venv, WaitFor

ROOT = "/opt/analytics-platform"
SCRIPTS = f"{ROOT}/scripts"
PUBLISHED = f"{ROOT}/data/published.duckdb"
_ENVIRONMENT = f"{ROOT}/pipeline.env"
_EXTENSIONS = f"{ROOT}/extensions"
_PROJECT = f"{ROOT}/dbt/analytics_project"
# In a folder of its own: a build may be going on.
_PARSE = (
    f"folder=$(mktemp -d); dbt --no-use-colors --quiet parse --project-dir {_PROJECT} --profiles-dir {ROOT}/dbt "
    '--target-path "$folder" --log-path "$folder"; status=$?; rm -rf "$folder"; exit $status'
)
# Beside the old one first, so that there is never half of one.
_EXTEND = (
    f"rm -rf {_EXTENSIONS}.new && {ROOT}/venv/bin/python {SCRIPTS}/install_extension.py {_EXTENSIONS}.new && "
    f"rm -rf {_EXTENSIONS} && mv -T {_EXTENSIONS}.new {_EXTENSIONS}"
)
_LONG = 1 << 16  # bytes: a longer list of cities is compared by its hash, and its difference is for nobody to read


def _cities_file(path: Path) -> str:
    return f"{ROOT}/cities{path.suffix}"


def as_analytics(command: str) -> str:
    """Shell text that runs a command as the user analytics, with the pipeline's environment and venv."""
    return argv(
        "runuser",
        "-u",
        "analytics",
        "--",
        "sh",
        "-c",
        f"set -a; . {_ENVIRONMENT}; PATH={ROOT}/venv/bin:$PATH; cd {ROOT}/data; {command}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics(Service):
    """The ingestion script, dbt and DuckDB."""

    requires: ClassVar[tuple[str, ...]] = ("postgres",)

    threads: Annotated[int, Option("Number of models that dbt builds in parallel.", low=1)] = 2
    memory_limit: Annotated[Size, Option("Memory that DuckDB may use.")] = Size("2GB")

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """The ingestion appends raw observations and asks what it has already; dbt reads them."""
        return (DatabaseGrant("project_data", "analytics", "append"), DatabaseGrant("project_data", "dbt", "read"))

    def ports(self) -> Sequence[Port]:
        """Who needs it starts the pipeline over SSH."""
        return (Port(22, "SSH", "needing"),)

    def units(self) -> Sequence[str]:
        """None: it runs when Airflow calls it."""
        return ()

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """User, venv, scripts, dbt project, and the gate for Airflow's key."""
        pipeline = bundled_path("pipeline")
        venv = Venv(f"{ROOT}/venv", (pipeline / "requirements" / "analytics.txt").read_bytes())
        scripts = Tree.of(SCRIPTS, pipeline / "scripts")
        postgres = context.inventory.container_with("postgres")
        project = Tree.of(_PROJECT, pipeline / "dbt" / "analytics_project")
        profiles = File(
            f"{ROOT}/dbt/profiles.yml",
            render(
                "analytics/profiles.yml.j2",
                warehouse=f"{ROOT}/data/warehouse.duckdb",
                threads=self.threads,
                extension_directory=_EXTENSIONS,
                memory_limit=self.memory_limit,
            ),
        )
        return (
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client"]),
            User("analytics", "/home/analytics", "/bin/sh"),
            Directory(ROOT),
            Directory(f"{ROOT}/bin"),
            Directory(f"{ROOT}/dbt"),
            Directory(f"{ROOT}/data", "analytics", "analytics", 0o750),
            UvInstall((pipeline / "requirements" / "uv.txt").read_bytes()),
            venv,
            scripts,
            project,
            profiles,
            Command(
                "DuckDB's postgres extension",
                f"test -n \"$(find {_EXTENSIONS} -name 'postgres_scanner*' -print -quit 2>/dev/null)\"",
                _EXTEND,
                triggered_by=[venv],
                makes=[ManagedResource("made", _EXTENSIONS)],
            ),
            *self._cities(context),
            File(_ENVIRONMENT, self._environment(context), "analytics", "analytics", 0o600, secret=True),
            *(
                File(
                    f"{ROOT}/bin/{name}", render(f"analytics/{name}.j2", root=ROOT, tasks=TASKS, exit=EXIT), mode=0o755
                )
                for name in COMMANDS
            ),
            File(f"{ROOT}/bin/gate", render("analytics/gate.j2", root=ROOT, commands=COMMANDS), mode=0o755),
            WaitFor(
                f"{postgres.name} accepts analytics",
                as_analytics("psql -qAtc 'select 1'"),
                postgres.name,
                context.failed,
                context.patience(postgres),
            ),
            # Not before: until Postgres is there, a first deploy installs Airflow, which takes longest of all.
            Command("dbt can read the project", "true", as_analytics(_PARSE), triggered_by=[venv, project, profiles]),
            # Last, so that Airflow is let in only when the pipeline can run. The home is root's as well: who owns
            # it could put another .ssh in the place of this one.
            Directory("/home/analytics"),
            Directory("/home/analytics/.ssh"),
            File("/home/analytics/.ssh/authorized_keys", self._authorized_keys(context)),
        )

    def _cities(self, context: ServiceContext) -> Iterator[Step]:
        """The file of cities, where there is one; the ingestion itself says whether it can be read."""
        path = context.inventory.pipeline.cities_file
        if path is None:
            return
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                "The file of cities cannot be read",
                f"{path}: {error.strerror}.",
                "It stands under `pipeline: cities:` in the inventory.",
            ) from None
        check = argv(f"{ROOT}/venv/bin/python", f"{SCRIPTS}/ingest_weather.py", "--check")
        # By its name it is known whether it is CSV or JSON.
        copy = f'"$new{path.suffix}"'
        yield File(
            _cities_file(path),
            content,
            secret=len(content) > _LONG,
            validate=f'ln -f "$new" {copy}; {check} {copy} || {{ rm -f {copy}; exit 1; }}; rm -f {copy}',
        )

    def _environment(self, context: ServiceContext) -> bytes:
        pipeline = context.inventory.pipeline
        cities = [{k: v for k, v in asdict(city).items() if v is not None} for city in pipeline.cities]
        return render(
            "analytics/pipeline.env.j2",
            root=ROOT,
            extensions=_EXTENSIONS,
            pipeline=pipeline,
            cities=cities,
            cities_file=pipeline.cities_file and _cities_file(pipeline.cities_file),
            api_key=openweather_key(pipeline).reveal(),
            postgres=context.inventory.container_with("postgres").address,
            password=context.secret_store.secret("postgres-analytics").reveal(),
            published=PUBLISHED,
            dbt_password=context.secret_store.secret("postgres-dbt").reveal(),
        )

    def _authorized_keys(self, context: ServiceContext) -> bytes:
        _, public = context.secret_store.key_pair("airflow")
        airflow = context.inventory.container_with("airflow").address
        return f'restrict,from="{airflow}",command="{ROOT}/bin/gate" {public}\n'.encode()

    def health_probes(self) -> Sequence[str]:
        """The last build and the marts, as the pipeline's own report tells them."""
        return (as_analytics(argv("python", f"{SCRIPTS}/report.py", "--database", PUBLISHED)) + " 2>&1",)

    def health(self, answers: Sequence[Result]) -> Health:
        """Healthy when the last build was good."""
        if not answers[0].ok:
            return Health(False, f"no report: {answers[0].text[-200:]}")
        facts = json.loads(answers[0].text.splitlines()[-1])
        build = facts.get("last_build")
        if not build:
            return Health(False, "nothing has been built yet", facts, ready=True)
        marts = "; ".join(f"{mart['name']} {mart['rows']} rows to {mart['newest']}" for mart in facts["marts"])
        tests = f"{build['tests_passed']} tests passed, {build['tests_failed']} failed"
        notes = [f"{facts['issues']} implausible values are left out"] if facts.get("issues") else []
        if held := facts.get("held_back"):
            notes.append(f"a transaction has been open since {held['since']}: {held['transaction']}")
        text = "; ".join([f"built {build['finished']}, {tests}", marts, *notes])
        return Health(build["status"] == "success", text, facts, ready=True)
