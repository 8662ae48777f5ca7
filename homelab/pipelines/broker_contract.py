"""The broker's stream of the weather, from the broker_contract.json that is shipped with the scripts."""

from __future__ import annotations

import json
from typing import Any, Final

from homelab.paths import bundled_path

_CONTRACT: dict[str, Any] = json.loads(bundled_path("pipelines/weather/scripts/broker_contract.json").read_text())
PORT: Final = 4222
STREAM: Final[str] = _CONTRACT["stream"]
SHARED_PARTS: Final[int] = _CONTRACT["parts"]
# The durable consumers with their subjects: one for each part of the observations, and one for the runs.
CONSUMERS: Final[dict[str, str]] = {
    **{f"{_CONTRACT['consumer']}-{part}": f"{_CONTRACT['observations']}.{part}" for part in range(SHARED_PARTS)},
    f"{_CONTRACT['consumer']}-{_CONTRACT['runs'].rpartition('.')[2]}": _CONTRACT["runs"],
}
