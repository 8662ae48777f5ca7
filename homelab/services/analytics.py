"""The ingestion script and dbt + DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.model import Access, Service, Site, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics(Service):
    """Options of `analytics`: how many threads dbt uses, and how much memory DuckDB may take (`2GB`)."""

    needs: ClassVar[tuple[str, ...]] = ("postgres",)

    threads: int = 2
    memory_limit: str = "2GB"

    def accesses(self) -> Sequence[Access]:
        """Appends raw observations and reads them back."""
        return (Access("project_data", "analytics", "append"),)

    def units(self) -> Sequence[str]:
        """None: it runs when Airflow calls it."""
        return ()

    def steps(self, site: Site) -> Sequence[Step]:
        """User, venv, scripts, dbt project."""
        return ()
