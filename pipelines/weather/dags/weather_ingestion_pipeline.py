"""Ingest the weather into PostgreSQL every hour, then build the marts. All commands run over SSH.

With a stream, a service ingests the weather, and this DAG builds the marts and verifies the last round of the stream.
With WEATHER_BUILD_EVERY, an event of the asset `weather_rows` starts it instead of a schedule: the DAG weather_new_rows
checks at this interval if enough new rows wait, and its task emits the event only then.

The connection `analytics` runs builds, `ingestion` all other commands; both may lead to the same container.

A failed city does not keep the others from the marts: the ingestion succeeds if anything was stored, and
verify_ingestion fails the run if anything was not. The SSH key of both connections is limited to the pipelines'
commands. The names are those of pipeline.yaml.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.ssh.operators.ssh import SSHOperator

try:
    from airflow.sdk import DAG
    from airflow.sdk.exceptions import AirflowFailException

    BACKOFF = 2.0
except ImportError:  # Airflow 2, where it is a bool; for Airflow 3 True means a multiplier of 1, which is no backoff
    from airflow import DAG
    from airflow.exceptions import AirflowFailException

    BACKOFF = True

# Exit statuses of errors that would occur again: key_refused, build_failed, bad_input. Python and the shell end with 2
# if a script is missing, as for a moment during a deploy.
LASTING = (6, 7, 8)
NOT_DUE = 9  # of weather.build_due: too few new rows, so its task is skipped, and emits no event


class PipelineCommand(SSHOperator):
    """A command of the pipeline, which is not repeated after an error that would occur again."""

    def raise_for_status(self, exit_status: int, stderr: bytes, context: Any = None) -> None:
        """Fail the task without a retry for these statuses."""
        if exit_status in LASTING:
            last = stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise AirflowFailException(f"exit status {exit_status}: {' '.join(last)}")
        super().raise_for_status(exit_status, stderr, context)


schedule: Any = os.environ.get("WEATHER_SCHEDULE", "@hourly")
if build_every := os.environ.get("WEATHER_BUILD_EVERY"):
    from airflow.sdk import Asset  # homelab refuses it on Airflow 2

    new_rows = Asset("weather_rows")
    schedule = [new_rows]
    with DAG(
        dag_id="weather_new_rows",
        is_paused_upon_creation=False,
        description="Start a build of the weather after new rows",
        schedule=timedelta(seconds=int(build_every)),
        start_date=datetime(2025, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["weather"],
        default_args={"owner": "homelab", "retries": 0},  # it asks again soon
    ):
        PipelineCommand(
            task_id="ask_for_new_rows",
            ssh_conn_id="analytics",
            command="weather.build_due",
            cmd_timeout=60,
            skip_on_exit_code=NOT_DUE,
            outlets=[new_rows],
        )

with DAG(
    dag_id="weather_ingestion_pipeline",
    is_paused_upon_creation=False,
    description="OpenWeather → PostgreSQL → dbt → DuckDB",
    schedule=schedule,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["weather"],
    default_args={
        "owner": "homelab",
        "retries": 1,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": BACKOFF,
    },
) as dag:
    run_dbt_transformation = PipelineCommand(
        task_id="run_dbt_transformation", ssh_conn_id="analytics", command="weather.build", cmd_timeout=30 * 60
    )
    # No retry: it reports the last ingestion, and would report the same.
    verify_ingestion = PipelineCommand(
        task_id="verify_ingestion", ssh_conn_id="ingestion", command="weather.check", cmd_timeout=60, retries=0
    )
    if "WEATHER_STREAM" not in os.environ:
        fetch_weather_data = PipelineCommand(
            task_id="fetch_weather_data", ssh_conn_id="ingestion", command="weather.fetch", cmd_timeout=15 * 60
        )
        fetch_weather_data >> run_dbt_transformation
        fetch_weather_data >> verify_ingestion
