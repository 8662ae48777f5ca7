"""The lake of a pipeline: the tables of its dbt project as DuckLake, instead of one DuckDB file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from homelab.model.options import Duration, Option

LAKE = "lake"  # the database with the catalogs, a schema for each pipeline; also the target


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSection:
    """The keys of a pipeline that choose where dbt builds."""

    target: Annotated[
        Literal["file", "lake"],
        Option("Where dbt builds: one DuckDB file, or DuckLake tables in PostgreSQL and the service `s3`."),
    ] = "file"
    snapshot_retention: Annotated[
        Duration,
        Option("Time for which `homelab query --at TIME` can read earlier builds of the lake.", low=Duration("1h")),
    ] = Duration("30d")

    @property
    def lake(self) -> Lake | None:
        """The lake, if it is the target."""
        return Lake(self.snapshot_retention) if self.target == LAKE else None


@dataclass(frozen=True, slots=True)
class Lake:
    """Access to the lake: the time for which its earlier builds are kept."""

    retention: Duration
