"""The login of the weather at the service clickhouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from homelab.model import ServiceContext
from homelab.model.lake import CLICKHOUSE
from homelab.pipeline_contract import CLICKHOUSE_DATABASES
from homelab.pipelines.layout import CLICKHOUSE_VENV

BUILDER = "pipeline_weather"
BUILDS_IN: Final[Sequence[str]] = (CLICKHOUSE_DATABASES["landed"], *CLICKHOUSE_DATABASES["built"])
PUBLISHED: Final[str] = CLICKHOUSE_DATABASES["published"]
ENDPOINT = "https"


def clickhouse_secret(user: str) -> str:
    """Return the name of the secret with a user's password."""
    return f"clickhouse-{user}"


def clickhouse_variables(context: ServiceContext, ca_file: str) -> Mapping[str, str]:
    """Return the variables of a pipeline that builds in ClickHouse; the password is in another file."""
    ((container, endpoint),) = context.peers(CLICKHOUSE, ENDPOINT)
    return {
        "CLICKHOUSE_HOST": str(container.address),
        "CLICKHOUSE_PORT": str(endpoint.port),
        "CLICKHOUSE_USER": BUILDER,
        "CLICKHOUSE_CA_FILE": ca_file,
        "CLICKHOUSE_DBT": f"{CLICKHOUSE_VENV}/bin/dbt",
    }
