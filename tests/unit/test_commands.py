"""Commands with a condition of several parts."""

from __future__ import annotations

import pytest

from homelab.steps import Command
from tests.support import LocalHost


@pytest.mark.parametrize(
    ("done", "pending"),
    [("true", False), ("false", True), (("true", "true"), False), (("false", "true"), True), (("true", "false"), True)],
)
def test_command_is_done_if_all_parts_succeed(done: str | tuple[str, ...], pending: bool) -> None:
    step = Command("x", done, "true")
    assert bool(step.check(LocalHost().batch(step.probes()))) is pending
