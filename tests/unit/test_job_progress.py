"""Progress of a long command in a container."""

from __future__ import annotations

from functools import partial

import pytest

from homelab.runtime import job_progress
from tests.support import LocalHost


def test_status_and_errors_of_a_job_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    reported = list[str]()
    done = job_progress.run_with_progress(
        partial(LocalHost().run, "sleep 0.2; exit 3"), lambda: "half", reported.append
    )
    assert (done.status, reported) == (3, ["half"])
    with pytest.raises(ZeroDivisionError):
        job_progress.run_with_progress(partial(LocalHost().run, "sleep 0.2"), lambda: str(1 // 0), reported.append)
