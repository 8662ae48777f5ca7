"""The cost of a second pipeline in a deploy without changes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace

import yaml

from benchmarks.deploys.deployed import Deployed
from benchmarks.table import Row
from homelab.commands.pipeline_new import new_pipeline

_RUNS = 8  # of each kind


def second_pipeline(place: Deployed) -> Iterator[Row]:
    """Compare runs without changes before and after a pipeline is added to the weather.

    The pipeline is deployed on the measured stack, so the runs cannot take turns.
    """
    one = [place.noop().seconds for _ in range(_RUNS)]
    stack = place.stack
    new_pipeline(stack.folder, "prices")
    overlay = stack.folder / "pipelines.yaml"
    overlay.write_text(yaml.safe_dump({"pipelines": {"prices": {"path": "pipelines/prices"}}}))
    both = replace(place, stack=replace(stack, files=(*stack.files, overlay)))
    both.stack.homelab("deploy")
    two = [both.noop().seconds for _ in range(_RUNS)]
    alone, together = statistics.median(one), statistics.median(two)
    yield Row(
        "no-op `deploy` with a second pipeline",
        f"{together:.2f} s",
        f"{alone:.2f} s (the weather alone)",
        f"{together / alone - 1:+.0%}",
        "≤ 10 % more",
        together <= alone * 1.1,
    )
