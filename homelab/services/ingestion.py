"""The service ingestion: the scripts of the pipelines on a container of their own, apart from dbt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result, argv
from homelab.model import Endpoint, Health, Service, ServiceContext, Step
from homelab.model.endpoints import SSH_PORT
from homelab.model.stages import ANALYTICS
from homelab.pipelines.container_steps import Limits
from homelab.pipelines.layout import FOLDER, SHARED_VENV
from homelab.pipelines.stream import stream_metrics
from homelab.services.pipeline_platform import platform_steps, shared_venv


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingestion(Service):
    """All commands of the pipelines except their builds, with the spool and the secrets of the scripts."""

    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")
    uses: ClassVar[tuple[str, ...]] = ("broker", "s3")

    def endpoints(self) -> Sequence[Endpoint]:
        """Return SSH, over which Airflow starts the scripts."""
        return (Endpoint(name="ssh", port=SSH_PORT, description="SSH", audience="dependents"),)

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the pipelines, with their spools."""
        return (FOLDER,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for the metrics of a stream; none next to analytics, which includes it."""
        return {} if ANALYTICS in context.container.services else stream_metrics(context)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return the platform and the scripts of the pipelines; none next to analytics, which includes them."""
        if ANALYTICS in context.inventory.stages_on(context.container):
            return ()
        return platform_steps(context, shared_venv(), Limits())

    def health_probes(self) -> Sequence[str]:
        """Return the command that finds the Python of the scripts; each pipeline has a health of its own."""
        return (argv("test", "-x", f"{SHARED_VENV}/bin/python"),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if the Python of the scripts is installed."""
        if not answers[0].ok:
            return Health(False, "Python of the scripts missing: `homelab deploy` installs it")
        return Health(True, "the scripts are installed")
