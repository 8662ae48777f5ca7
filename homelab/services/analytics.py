"""The service analytics: dbt + DuckDB, the pipelines, and the gate over which Airflow starts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar

from homelab.host import Result, argv
from homelab.model import Endpoint, Health, ManagedResource, Service, ServiceContext, Step
from homelab.model.endpoints import SSH_PORT
from homelab.model.options import Option, Size
from homelab.paths import bundled_path
from homelab.pipelines.container_steps import Limits, account_steps, gate_entries, pipeline_steps
from homelab.pipelines.layout import EXTENSIONS, FOLDER, SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.pipelines.layout import PLATFORM as ROOT
from homelab.pipelines.pipeline_metrics import labelled
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import Command, Directory, File, Packages, Tree, User, UvInstall, Venv

# Compiled files would be foreign files in the tree of scripts: hence -B.
_PYTHON = (f"{SHARED_VENV}/bin/python", "-B")
_HAS_EXTENSION = f"test -n \"$(find {EXTENSIONS} -name 'postgres_scanner*' -print -quit 2>/dev/null)\""
# Installed next to the old one first, so that it is never incomplete.
_INSTALL_EXTENSION = (
    f"rm -rf {EXTENSIONS}.new && {argv(*_PYTHON)} {SHARED_SCRIPTS}/install_extension.py {EXTENSIONS}.new && "
    f"rm -rf {EXTENSIONS} && mv -T {EXTENSIONS}.new {EXTENSIONS}"
)
_WRAPPER = "/usr/local/sbin/homelab-pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics(Service):
    """Dbt and DuckDB, and the pipelines."""

    requires: ClassVar[tuple[str, ...]] = ("postgres",)
    runs_pipeline: ClassVar[bool] = True

    threads: Annotated[
        int, Option("Number of models that dbt builds in parallel, unless the pipeline has a limit.", low=1)
    ] = 2
    memory_limit: Annotated[Size, Option("Memory that DuckDB may use, unless the pipeline has a limit.")] = Size("2GB")

    def endpoints(self) -> Sequence[Endpoint]:
        """Return SSH, over which Airflow starts the pipelines."""
        return (Endpoint(name="ssh", port=SSH_PORT, description="SSH", audience="dependents"),)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the commands for the metrics that the builds of the pipelines wrote."""
        found = {each.name: Layout(each).read_data("metrics.prom") for each in context.inventory.pipelines}
        return {f"pipeline-{name}": labelled(name, command) for name, command in found.items()}

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the pipelines, with their warehouses and published marts."""
        return (FOLDER,)

    def units(self) -> Sequence[str]:
        """Return none: Airflow starts each run."""
        return ()

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, the scripts of all pipelines, the pipelines, and the gate for Airflow's key."""
        requirements, pipelines = bundled_path("pipelines/shared/requirements"), context.inventory.pipelines
        venv = Venv(SHARED_VENV, (requirements / "analytics.txt").read_bytes())
        limits = Limits(self.memory_limit, self.threads)
        return (
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus", "sudo"]),
            User("analytics", "/home/analytics", "/bin/sh"),
            *account_steps(pipelines),
            Directory("/home/analytics"),
            Directory(ROOT),
            Directory(f"{ROOT}/bin"),
            Directory(FOLDER),
            UvInstall((requirements / "uv.txt").read_bytes()),
            venv,
            Tree.of(SHARED_SCRIPTS, bundled_path("pipelines/shared/scripts")),
            Command(
                "DuckDB's postgres extension",
                _HAS_EXTENSION,
                _INSTALL_EXTENSION,
                triggered_by=[venv],
                makes=[ManagedResource("made", EXTENSIONS)],
            ),
            *self._gate(context),
            *chain.from_iterable(pipeline_steps(context, each, CA_FILE, limits) for each in pipelines),
            # Last, so that Airflow can log in only when the pipelines can run.
            Directory("/home/analytics/.ssh"),
            *self._authorized_keys(context),
        )

    def _gate(self, context: ServiceContext) -> Iterator[Step]:
        """Yield the program that runs the commands of all pipelines, and the gate before it."""
        entries = list(chain.from_iterable(map(gate_entries, context.inventory.pipelines)))
        names = [entry.name for entry in entries]
        yield File(f"{ROOT}/bin/gate", render("analytics/gate.j2", wrapper=_WRAPPER, commands=names), mode=0o755)
        yield File(_WRAPPER, render("analytics/homelab-pipeline.j2", entries=entries), mode=0o755)
        yield File(
            "/etc/sudoers.d/homelab-pipeline",
            render("analytics/sudoers.j2", wrapper=_WRAPPER, commands=names),
            mode=0o440,
            validate='/usr/sbin/visudo -c -q -f "$new"',
        )

    def _authorized_keys(self, context: ServiceContext) -> Iterator[Step]:
        """Yield the file that admits Airflow's key, if a container has Airflow."""
        for container in context.inventory.containers_with("airflow"):
            _, public = context.secret_store.key_pair("airflow")
            line = f'restrict,from="{container.address}",command="{ROOT}/bin/gate" {public}\n'
            yield File("/home/analytics/.ssh/authorized_keys", line.encode())

    def health_probes(self) -> Sequence[str]:
        """Return the commands that find dbt and DuckDB's extension; each pipeline has a health of its own."""
        return (argv("test", "-x", f"{SHARED_VENV}/bin/dbt"), _HAS_EXTENSION)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if dbt and DuckDB's extension are installed."""
        missing = [name for name, each in zip(("dbt", "DuckDB's extension"), answers, strict=True) if not each.ok]
        if missing:
            return Health(False, f"{' and '.join(missing)} missing: `homelab deploy` installs it")
        return Health(True, "dbt and DuckDB are installed")
