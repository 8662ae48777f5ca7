"""After a deploy each service has to say that it works, and how its last runs went does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Health, ServiceContext
from homelab.progress import SilentProgress
from homelab.runtime.convergence import steps_of
from homelab.services.airflow import Airflow
from homelab.services.analytics import Analytics
from homelab.services.postgres import Postgres
from homelab.steps import Command, HealthCheck
from homelab.steps import health_check as gates
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import FixedSecretStore, LocalHost
from tests.unit.test_services import KEYS, inventory

BUILD = '{"last_build": {"status": "failed", "finished": "F", "tests_passed": 1, "tests_failed": 2}, "marts": []}'


@pytest.mark.parametrize(
    ("service", "said", "ready"),
    [
        (Postgres(), [None], False),
        (Postgres(), ['{"sizes": {}, "connections": 3, "raw_rows": 0, "newest_raw_row": null}'], True),
        (Analytics(), [None], False),
        (Analytics(), ['{"last_build": null, "marts": []}'], True),
        (Analytics(), [BUILD], True),
        (Airflow(), [None, "[]"], False),
        (Airflow(), ['{"scheduler": {"status": "unhealthy"}}', "[]"], False),
        (
            Airflow(),
            ['{"scheduler": {"status": "healthy"}}', '[{"state": "failed", "end_date": "2026-01-01T00:00:00"}]'],
            True,
        ),
    ],
)
def test_a_service_works_whatever_became_of_its_last_run(
    service: Postgres | Analytics | Airflow, said: list[str | None], ready: bool
) -> None:
    answers = [Result("probe", 1) if text is None else Result("probe", 0, text.encode()) for text in said]
    assert service.health(answers).ready == ready


def test_every_service_has_its_gate_after_all_that_could_break_it(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    for container in wanted.containers:
        steps = steps_of(
            ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
        )
        gates = [step for step in steps if isinstance(step, HealthCheck)]
        assert [gate.name for gate in gates] == list(container.services)
        assert steps[-len(gates) :] == gates
        assert all(step in gate.triggered_by for gate in gates for step in steps if not step.waits)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates do not wait as long as for a real service."""
    monkeypatch.setattr(gates, "_EVERY", 0.05)


def gate(folder: Path, watched: Sequence[Command], deadline: float = 60) -> HealthCheck:
    """Works once a file is there; what it is asked counts."""

    def judge(answers: Sequence[Result]) -> Health:
        return Health(answers[0].ok, "" if answers[0].ok else "its file is not there")

    return HealthCheck(
        "service", [f"echo asked >>{folder}/asked; test -e {folder}/up"], judge, triggered_by=watched, deadline=deadline
    )


def test_it_is_asked_again_after_a_change_and_until_it_works(tmp_path: Path, often: None) -> None:
    change = Command(
        "change",
        f"test -e {tmp_path}/done",
        f"touch {tmp_path}/done; (sleep 0.3; touch {tmp_path}/up) >/dev/null 2>&1 9>&- &",
    )
    changes = converge(LocalHost(), [change, gate(tmp_path, [change])], SilentProgress())
    assert [str(each) for each in changes] == ["change: not done yet", "service works: its file is not there"]
    (tmp_path / "done").unlink()
    changes = converge(LocalHost(), [change, gate(tmp_path, [change])], SilentProgress())
    assert str(changes[1]) == "service works: because of change"
    assert pending_changes(LocalHost(), [change, gate(tmp_path, [change])]) == []


def test_one_that_does_not_work_is_a_failed_deploy(tmp_path: Path, often: None) -> None:
    change = Command("change", f"test -e {tmp_path}/done", f"touch {tmp_path}/done")
    for _ in range(2):  # also in the next run, which finds nothing else to do
        with pytest.raises(HomelabError) as error:
            converge(LocalHost(), [change, gate(tmp_path, [change], deadline=0.2)], SilentProgress())
        assert error.value.brief == "local: service does not work after the deploy"
        assert error.value.details.startswith("its file is not there (asked for 0 s)")
        assert "homelab logs local" in error.value.resolution
