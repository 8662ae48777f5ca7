"""Sizes and durations of the inventory: their largest values are those that programs can count."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.errors import InputError
from homelab.inventory import load
from homelab.model.options import Duration, Quantity, Size
from homelab.paths import bundled_path


@pytest.mark.parametrize(
    ("kind", "text"), [(Duration, "36501d"), (Duration, "9" * 400 + "d"), (Size, "1000001TB"), (Size, "9" * 400 + "TB")]
)
def test_quantity_that_no_program_can_count_is_refused(kind: type[Quantity], text: str) -> None:
    with pytest.raises(ValueError, match="more than"):
        kind(text)


@pytest.mark.parametrize(("kind", "text"), [(Duration, "36500d"), (Duration, "0s"), (Size, "1000000TB"), (Size, "1KB")])
def test_quantity_up_to_the_largest_is_accepted(kind: type[Quantity], text: str) -> None:
    assert kind(text) == text


@pytest.mark.parametrize("retention", ["365000d", "9" * 400 + "d"])
def test_retention_beyond_the_range_of_prometheus_is_an_error_with_the_limit(tmp_path: Path, retention: str) -> None:
    overlay = tmp_path / "overlay.yaml"
    text = "containers: {{observability: {{vmid: 170, ip: .70, cores: 1, memory: 1024, services: {{prometheus: {}}}}}}}"
    overlay.write_text(text.format(f"{{retention: {retention}}}"))
    with pytest.raises(InputError, match=r"must be a duration such as .*; the largest is 36500d"):
        load([bundled_path("inventory.yaml"), overlay])
