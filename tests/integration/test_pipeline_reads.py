"""A pipeline that joins its prices with the weather's published marts, on a real PostgreSQL, dbt and DuckDB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_dev import add_prices, homelab
from tests.integration.test_dev import site as site

pytestmark = pytest.mark.timeout(400)
JOIN = """{{ config(materialized='incremental', unique_key=['item', 'day']) }}
select prices.item, prices.day, prices.average, weather.temperature_mean_c
from {{ ref('prices_daily') }} as prices
join {{ source('weather', 'weather_daily') }} as weather
    on weather.observation_date = prices.day and weather.city = 'Newark,US'
{% if is_incremental() %}
where prices.day >= (select max(day) from {{ this }})
{% endif %}
"""


DAYS = [f"2013-01-{day:02}" for day in range(1, 5)]  # the first days of the replay


class Prices:
    """The pipeline `prices`, which reads the weather."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.folder = add_prices(site)
        self.join = self.folder / "dbt" / "models" / "prices_weather.sql"
        self.join.write_text(JOIN)
        manifest = self.folder / "pipeline.yaml"
        manifest.write_text(manifest.read_text() + "reads: [weather]\n")
        rows = [f"power,{day}T12:00:00+00:00,{number}" for number, day in enumerate(DAYS)]
        (self.folder / "scripts" / "prices.csv").write_text("\n".join(["item,measured_at,value", *rows, ""]))

    def run(self) -> str:
        """Run the pipeline; return the output."""
        return homelab(self.site, "run", "prices")

    def days(self, table: str) -> list[str]:
        """Return the days of a published table."""
        output = homelab(self.site, "query", "--pipeline", "prices", f"from {table} order by day", "--json")
        rows: list[dict[str, Any]] = json.loads(output)
        return [row["day"] for row in rows]


def test_mart_joins_the_weathers_marts_and_grows_with_its_publications(site: Path) -> None:
    prices = Prices(site)
    homelab(site, "run", "--hours", "20")
    prices.run()
    first = prices.days("prices_weather")
    assert first
    assert set(first) < set(DAYS)
    homelab(site, "run", "--hours", "30")
    assert "2 models built" in prices.run()
    second = prices.days("prices_weather")
    assert second[: len(first)] == first
    assert len(second) > len(first)
