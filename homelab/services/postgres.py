"""PostgreSQL: the raw observations and Airflow's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from homelab.model import Access, Service, Site, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres(Service):
    """Options of `postgres`. `source` says whose packages: the distribution's, or PGDG's."""

    version: int = 16
    source: Literal["distribution", "pgdg"] = "distribution"

    def accesses(self) -> Sequence[Access]:
        """None: it is the one that is reached."""
        return ()

    def units(self) -> Sequence[str]:
        """The cluster's unit, as Debian's postgresql-common names it."""
        return (f"postgresql@{self.version}-main.service",)

    def steps(self, site: Site) -> Sequence[Step]:
        """Packages, settings, roles, databases, pg_hba.conf."""
        return ()
