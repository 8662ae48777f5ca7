"""The lake of a pipeline: the tables of its dbt project as DuckLake, instead of one DuckDB file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from homelab.model.options import Duration, Option

LAKE = "lake"  # the database with the catalogs, a schema for each pipeline; also the target
CLICKHOUSE = "clickhouse"  # the service, and the target of a pipeline that builds there


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSection:
    """The key of a pipeline for the earlier builds of its lake."""

    snapshot_retention: Annotated[
        Duration,
        Option("Time for which `homelab query --at TIME` can read earlier builds of the lake.", low=Duration("1h")),
    ] = Duration("30d")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSection(RetentionSection):
    """The keys of a pipeline that choose where dbt builds."""

    target: Annotated[
        Literal["file", "lake"],
        Option("Where dbt builds: one DuckDB file, or DuckLake tables in PostgreSQL and the service `s3`."),
    ] = "file"


@dataclass(frozen=True, slots=True)
class Lake:
    """Access to the lake: the time for which its earlier builds are kept."""

    retention: Duration
