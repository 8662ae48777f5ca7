"""The services that an inventory may name: module name = name in the inventory."""

from __future__ import annotations

from homelab.model import Service
from homelab.services.airflow import Airflow
from homelab.services.analytics import Analytics
from homelab.services.postgres import Postgres

SERVICES: dict[str, type[Service]] = {"postgres": Postgres, "analytics": Analytics, "airflow": Airflow}
