"""Airflow, which runs the pipeline over SSH."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from homelab.distributions import Distribution
from homelab.model import Access, Service, Site, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow(Service):
    """Options of `airflow`: its series, the web UI's port, and how many tasks may run at once."""

    needs: ClassVar[tuple[str, ...]] = ("postgres", "analytics")

    version: Literal["3.3", "2.11"] = "3.3"
    port: int = 8080
    parallelism: int = 4

    def objections(self, distribution: Distribution) -> Iterator[tuple[str, str]]:
        """2.11 is the last series for Python up to 3.12."""
        if self.version == "2.11" and distribution.python > (3, 12):
            yield "version", (f"Airflow 2.11 runs on Python up to 3.12, and {distribution.alias} has "
                              f"{'.'.join(map(str, distribution.python))}: write \"3.3\", or another template")

    def accesses(self) -> Sequence[Access]:
        """Owns its metadata, may look at the observations."""
        return (Access("airflow_metadata", "airflow_admin", "own"), Access("project_data", "airflow_admin", "read"))

    def units(self) -> Sequence[str]:
        """One unit for each of its processes."""
        processes = {"3.3": ("api-server", "scheduler", "dag-processor"), "2.11": ("webserver", "scheduler")}
        return tuple(f"airflow-{process}.service" for process in processes[self.version])

    def steps(self, site: Site) -> Sequence[Step]:
        """User, venv, configuration, metadata, units, DAG."""
        return ()
