"""The environment of Airflow's processes: settings and secrets, in files that only root can read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from homelab.model import Secret, ServiceContext, Stage
from homelab.model.stages import STAGES
from homelab.render import render
from homelab.services import airflow_dags
from homelab.services.airflow_celery import celery_secrets
from homelab.services.airflow_dags import DagBundles
from homelab.services.airflow_gate import KEY, LOGIN, host_key
from homelab.services.airflow_metadata import ROLE
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import File

HOME = "/var/lib/airflow"  # its data and logs; the user's home belongs to root, and its processes cannot read it
SETTINGS = "/etc/homelab/airflow.env"
SECRETS = "/etc/homelab/airflow-secrets.env"


def settings_file(
    context: ServiceContext, options: object, bundles: DagBundles, *, api_url: str, worker: bool = False
) -> File:
    """Return the step for the settings; `options` are those of the service, `api_url` is the API for its tasks."""
    weather = context.inventory.weather
    content = render(
        "airflow/airflow.env.j2",
        home=HOME,
        dags=airflow_dags.ROOT,
        python_path=airflow_dags.PYTHON_PATH,
        bundles=bundles.config_list(),
        options=options,
        connections={stage: json.dumps(_connection(context, stage)) for stage in STAGES},
        weather=weather,
        ca_file=CA_FILE,
        api_url=api_url,
        own_address=context.container.address if worker else "",
    )
    return File(SETTINGS, content, mode=0o600)


def _connection(context: ServiceContext, stage: Stage) -> Mapping[str, Any]:
    """Return the connection over which Airflow starts the commands of a stage."""
    container = context.inventory.container_of(stage)
    return {
        "conn_type": "ssh",
        "host": str(container.address),
        "login": LOGIN,
        "extra": {
            "key_file": KEY,
            "host_key": host_key(context, container),
            "look_for_keys": "false",
            "conn_timeout": 20,
        },
    }


def secrets_file(context: ServiceContext, options: object, *, celery: bool, worker: bool = False) -> File:
    """Return the step for the secrets of the processes; a worker has none for the metadata and the web UI."""
    content = render(
        "airflow/secrets.env.j2",
        options=options,
        postgres=context.inventory.container_with("postgres").address,
        password=context.secret_store.secret(f"postgres-{ROLE}").reveal(),
        fernet=fernet_key(context).reveal(),
        secret_key=context.secret_store.secret("airflow-secret-key").reveal(),
        jwt_secret=context.secret_store.secret("airflow-jwt").reveal(),
        worker=worker,
        celery=celery_secrets(context) if celery else {},
    )
    return File(SECRETS, content, mode=0o600, secret=True)


def fernet_key(context: ServiceContext) -> Secret:
    """Return the key with which Airflow encrypts in its metadata."""
    digest = hashlib.sha256(context.secret_store.secret("airflow-fernet").reveal().encode()).digest()
    return Secret(base64.urlsafe_b64encode(digest).decode())
