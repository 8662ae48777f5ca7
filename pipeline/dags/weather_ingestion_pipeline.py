"""Hourly: fetch the weather into Postgres, then build the marts; all of it runs over SSH on the analytics container.

A city that fails does not keep the others from the marts: the fetch has succeeded when something was stored, and
check_every_city fails the run when something was not. The key behind the connection `analytics` may run these three
commands there and nothing else.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.ssh.operators.ssh import SSHOperator

try:
    from airflow.sdk import DAG

    BACKOFF = 2.0
except ImportError:  # Airflow 2, where the backoff is a yes or no; on 3 a plain True means none
    from airflow import DAG

    BACKOFF = True

with DAG(
    dag_id="weather_ingestion_pipeline",
    is_paused_upon_creation=False,
    description="OpenWeather → Postgres → dbt → DuckDB",
    schedule=os.environ.get("WEATHER_SCHEDULE", "@hourly"),
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
    fetch_weather_data = SSHOperator(
        task_id="fetch_weather_data", ssh_conn_id="analytics", command="fetch_weather_data", cmd_timeout=15 * 60
    )
    run_dbt_transformation = SSHOperator(
        task_id="run_dbt_transformation", ssh_conn_id="analytics", command="run_dbt_transformation", cmd_timeout=30 * 60
    )
    # It says what the fetch has come to, and would say the same again.
    check_every_city = SSHOperator(
        task_id="check_every_city", ssh_conn_id="analytics", command="check_every_city", cmd_timeout=60, retries=0
    )
    fetch_weather_data >> run_dbt_transformation
    fetch_weather_data >> check_every_city
