"""The service analytics: dbt + DuckDB and the pipelines; the service ingestion may run their scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from homelab.host import Result, argv
from homelab.model import Endpoint, Health, Inventory, ManagedResource, Service, ServiceContext, Step
from homelab.model.endpoints import SSH_PORT
from homelab.model.options import Option, Size
from homelab.pipelines.container_steps import Limits
from homelab.pipelines.layout import EXTENSIONS, FOLDER, SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.pipelines.pipeline_metrics import labelled
from homelab.pipelines.stream import stream_metrics
from homelab.services.dbt_docs import DOCS_ENDPOINT, DOCS_FOLDER, DOCS_UNIT, docs_pages, docs_steps
from homelab.services.pipeline_platform import clickhouse_venv, platform_steps, shared_venv
from homelab.services.publications import PUSHER, copy_metrics, push_publications
from homelab.steps import Command

# Compiled files would be foreign files in the tree of scripts: hence -B.
_PYTHON = (f"{SHARED_VENV}/bin/python", "-B")
_HAS_EXTENSION = " && ".join(
    f"test -n \"$(find {EXTENSIONS} -name '{name}*' -print -quit 2>/dev/null)\""
    for name in ("postgres_scanner", "httpfs", "ducklake")
)
# Installed next to the old one first, so that it is never incomplete.
_INSTALL_EXTENSION = (
    f"rm -rf {EXTENSIONS}.new && {argv(*_PYTHON)} {SHARED_SCRIPTS}/install_extension.py {EXTENSIONS}.new && "
    f"rm -rf {EXTENSIONS} && mv -T {EXTENSIONS}.new {EXTENSIONS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics(Service):
    """Dbt and DuckDB, and the pipelines; their scripts run here, too, unless a container has `ingestion`."""

    requires: ClassVar[tuple[str, ...]] = ("postgres",)
    uses: ClassVar[tuple[str, ...]] = ("broker", "clickhouse", "s3")

    threads: Annotated[
        int, Option("Number of models that dbt builds in parallel, unless the pipeline has a limit.", low=1, high=64)
    ] = 2
    memory_limit: Annotated[
        Size, Option("Memory that DuckDB may use, unless the pipeline has a limit.", low=Size("64MiB"))
    ] = Size("2GB")
    docs: Annotated[bool, Option("Serve the dbt docs of the pipelines; the gateway publishes them.")] = False

    def endpoints(self) -> Sequence[Endpoint]:
        """Return SSH, over which Airflow starts the pipelines, and the dbt docs."""
        ssh = Endpoint(name="ssh", port=SSH_PORT, description="SSH", audience="dependents")
        return (ssh, DOCS_ENDPOINT) if self.docs else (ssh,)

    def web_pages(self, inventory: Inventory) -> Mapping[str, str]:
        """Return the dbt docs of each pipeline."""
        return docs_pages(inventory)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the commands for the metrics that the pipelines wrote, and for the pushed copies."""
        found = {each.name: Layout(each).read_data("metrics.prom") for each in context.inventory.pipelines}
        builds = {f"pipeline-{name}": labelled(name, command) for name, command in found.items()}
        return {**builds, **copy_metrics(context), **stream_metrics(context)}

    def data_folders(self) -> Sequence[str]:
        """Return the folders of the pipelines and their published marts, of the pushes, and of the dbt docs."""
        return (FOLDER, PUSHER, DOCS_FOLDER) if self.docs else (FOLDER, PUSHER)

    def units(self) -> Sequence[str]:
        """Return the server of the dbt docs; Airflow starts each run of a pipeline."""
        return (DOCS_UNIT,) if self.docs else ()

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return the platform with DuckDB's extensions, and the stages of the pipelines that run here."""
        venv = shared_venv()
        extension = Command(
            "DuckDB's extensions",
            _HAS_EXTENSION,
            _INSTALL_EXTENSION,
            triggered_by=[venv],
            makes=[ManagedResource("made", EXTENSIONS)],
        )
        in_clickhouse = any(each.clickhouse for each in context.inventory.pipelines)
        others = [extension, *([clickhouse_venv()] if in_clickhouse else [])]
        platform = platform_steps(context, venv, Limits(self.memory_limit, self.threads), others)
        docs = docs_steps(context) if self.docs else ()
        return (*platform, *push_publications(context), *docs)

    def health_probes(self) -> Sequence[str]:
        """Return the commands that find dbt and DuckDB's extensions; each pipeline has a health of its own."""
        return (argv("test", "-x", f"{SHARED_VENV}/bin/dbt"), _HAS_EXTENSION)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if dbt and DuckDB's extensions are installed."""
        missing = [name for name, each in zip(("dbt", "DuckDB's extensions"), answers, strict=True) if not each.ok]
        if missing:
            return Health(False, f"{' and '.join(missing)} missing: `homelab deploy` installs it")
        return Health(True, "dbt and DuckDB are installed")
