"""The registry of services: name in the inventory → class."""

from __future__ import annotations

from homelab.model import Service
from homelab.services.airflow import Airflow
from homelab.services.analytics import Analytics
from homelab.services.postgres import Postgres

SERVICES: dict[str, type[Service]] = {"postgres": Postgres, "analytics": Analytics, "airflow": Airflow}
