"""The batch of probes: the first runs alone, the others in parallel, and the results are in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import LocalHost


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9, 48])
def test_results_are_in_the_order_of_the_commands(count: int) -> None:
    results = LocalHost().batch([f"echo {number}; cat; exit {number % 7}" for number in range(count)])
    assert [(result.text, result.status) for result in results] == [(str(n), n % 7) for n in range(count)]


def test_long_outputs_are_complete() -> None:
    results = LocalHost().batch([f"head -c 300000 /dev/zero | tr '\\0' {letter}" for letter in "abcdef"])
    assert [result.stdout for result in results] == [letter.encode() * 300_000 for letter in "abcdef"]


def test_commands_run_in_parallel(tmp_path: Path) -> None:
    met = [
        f"touch {number}; for i in $(seq 500); do test $(ls | wc -l) = 4 && exit 0; sleep 0.02; done; exit 1"
        for number in range(4)
    ]
    results = LocalHost().batch(["true", *(f"cd {tmp_path}; {command}" for command in met)])
    assert [result.status for result in results] == [0] * 5


def test_first_command_ends_before_the_others_start(tmp_path: Path) -> None:
    first, *others = LocalHost().batch([f"sleep 0.1; touch {tmp_path}/x", *[f"test -e {tmp_path}/x"] * 6])
    assert first.ok
    assert all(other.ok for other in others)
