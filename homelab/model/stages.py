"""The stages of a pipeline: the service, the database role and the Airflow connection of each command."""

from __future__ import annotations

from typing import Final, Literal

FETCH, BUILD, CHECK = "fetch", "build", "check"
BUILD_DUE: Final = "build_due"  # its exit status is `not_due` if too few new rows wait for a build
Stage = Literal["ingestion", "analytics"]  # also the name of its service, and of its connection in Airflow
INGESTION: Final = "ingestion"
ANALYTICS: Final = "analytics"
STAGES: tuple[Stage, ...] = (INGESTION, ANALYTICS)


def stage_of(command: str) -> Stage:
    """Return the stage of a command: builds, with the tables that they publish, or all other scripts."""
    return ANALYTICS if command in (BUILD, BUILD_DUE) else INGESTION
