"""Airflow's executor Celery: its queue in Redis, its results in PostgreSQL, and the change back from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

from homelab.model import DatabaseGrant, Service, ServiceContext
from homelab.services.airflow_metadata import DATABASE, in_metadata
from homelab.services.redis import LOGIN, redis_url
from homelab.steps import Command

# A schema of its own: workers run the code of DAGs, so they must not read the metadata. PostgreSQL looks for tables in
# the schema with the name of the role.
RESULTS = DatabaseGrant(DATABASE, "airflow_results", "own", "airflow_results")
LONGEST_DRAIN = 1500  # seconds, the maximum for the end of the tasks of a worker
DEFAULT_QUEUE = "default"  # of tasks without a queue
_PAUSE = 2  # seconds


def missing_for_celery(services: Mapping[str, Sequence[Service]]) -> Iterator[str]:
    """Yield an error for each missing service, and for tasks without a worker; `services` are by name."""
    for needed in ("redis", "airflow_worker"):
        if needed not in services:
            yield f"celery needs the service `{needed}`, which no container has: add it, or write `local`"
    queues = [queue for worker in services.get("airflow_worker", ()) for queue in getattr(worker, "queues", ())]
    if queues and DEFAULT_QUEUE not in queues:
        yield f"celery needs a worker with the queue `{DEFAULT_QUEUE}`, that of the pipelines' tasks"


def celery_secrets(context: ServiceContext) -> Mapping[str, str]:
    """Return the variables with the addresses of the queue and of the results, which contain passwords."""
    store, inventory = context.secret_store, context.inventory
    password = quote(store.secret(f"postgres-{RESULTS.role}").reveal(), safe="")
    server = f"{RESULTS.role}:{password}@{inventory.container_with('postgres').address}"
    return {
        "AIRFLOW__CELERY__BROKER_URL": redis_url(inventory.container_with("redis"), store.secret(LOGIN).reveal()),
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{server}/{RESULTS.database}",
    }


def old_results(venv: str) -> str:
    """Return the command that removes results older than a day, because no Celery beat runs and removes them."""
    module = "airflow.providers.celery.executors.celery_executor_utils"
    return f"{venv}/bin/python -c 'from {module} import app; app.backend.cleanup()'"


def celery_left(settings: str, scheduler: str) -> Command:
    """Return the step before the change to another executor: it stops the scheduler, and waits for the workers' tasks.

    The change moves the API to another address than these tasks know. A task without a heartbeat has lost its worker,
    so the step does not wait for it.
    """
    running = in_metadata(
        "select count(*) from task_instance where state = $$running$$ "
        "and last_heartbeat_at > now() - interval $$2 minutes$$"
    )
    return Command(
        "the tasks of Celery's workers have ended",
        f"! grep -qsx AIRFLOW__CORE__EXECUTOR=CeleryExecutor {settings}",
        f"systemctl stop {scheduler}; for i in $(seq {LONGEST_DRAIN // _PAUSE}); do "
        f'if [ "$({running})" = 0 ]; then break; fi; sleep {_PAUSE}; done',
        timeout=LONGEST_DRAIN + 300,
    )
