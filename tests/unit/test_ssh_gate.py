"""The health checks at the end of a deploy; the outcome of a service's last runs does not matter."""

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
from homelab.steps import Command, HealthCheck, health_check
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import FixedSecretStore, LocalHost
from tests.unit.test_services import KEYS, inventory


@pytest.mark.parametrize(
    ("service", "outputs", "ready"),
    [
        (Postgres(), [None, None, None, None], False),
        (Postgres(), ['{"sizes": {}, "connections": 3}', "", "f", '{"raw_rows": 0, "newest_raw_row": null}'], True),
        (Postgres(), ['{"sizes": {}, "connections": 3}', "", "", None], True),
        (Analytics(), [None, ""], False),
        (Analytics(), ["", ""], True),
        (Airflow(), [None, "[]", ""], False),
        (Airflow(), ['{"scheduler": {"status": "unhealthy"}}', "[]", ""], False),
        (Airflow(), ['{"scheduler": {"status": "healthy"}}', '["Airflow cannot import x.py: bad"]', ""], True),
    ],
)
def test_service_is_ready_after_a_failed_run(
    service: Postgres | Analytics | Airflow, outputs: list[str | None], ready: bool
) -> None:
    answers = [Result("probe", 1) if text is None else Result("probe", 0, text.encode()) for text in outputs]
    assert service.health(answers).ready == ready


def test_every_service_is_checked_after_all_other_steps(tmp_path: Path) -> None:
    wanted = inventory(tmp_path)
    for container in wanted.containers:
        steps = steps_of(
            ServiceContext(inventory=wanted, container=container, secret_store=FixedSecretStore(), host_keys=KEYS)
        )
        checks = [step for step in steps if isinstance(step, HealthCheck)]
        assert [check.name for check in checks] == list(container.services)
        assert steps[-len(checks) :] == checks
        assert all(step in check.triggered_by for check in checks for step in steps if not step.is_wait)


@pytest.fixture
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_INTERVAL", 0.05)


def file_check(folder: Path, triggers: Sequence[Command], deadline: float = 60) -> HealthCheck:
    """Return a health check that succeeds once a file exists."""

    def evaluate(answers: Sequence[Result]) -> Health:
        return Health(answers[0].ok, "" if answers[0].ok else "its file is missing")

    return HealthCheck("service", [f"test -e {folder}/up"], evaluate, triggered_by=triggers, deadline=deadline)


def test_check_is_repeated_until_it_succeeds_and_after_a_change(tmp_path: Path, short_interval: None) -> None:
    change = Command(
        "change",
        f"test -e {tmp_path}/done",
        f"touch {tmp_path}/done; (sleep 0.3; touch {tmp_path}/up) >/dev/null 2>&1 9>&- &",
    )
    changes = converge(LocalHost(), [change, file_check(tmp_path, [change])], SilentProgress())
    assert [str(each) for each in changes] == ["change: not done yet", "service is healthy: its file is missing"]
    (tmp_path / "done").unlink()
    changes = converge(LocalHost(), [change, file_check(tmp_path, [change])], SilentProgress())
    assert str(changes[1]) == "service is healthy: because of change"
    assert pending_changes(LocalHost(), [change, file_check(tmp_path, [change])]) == []


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ("active\nactive", None),
        ("active\nactivating", "b is activating"),
        ("failed\ninactive", "a is failed; b is inactive"),
    ],
)
def test_service_with_a_unit_that_is_not_active_is_awaited(states: str, reason: str | None) -> None:
    check = HealthCheck("service", ["true"], lambda _: Health(True, "fine"), ("a", "b"))
    assert check.probes() == ("true", "systemctl is-active a b")
    pending = check.check([Result("true", 0), Result("", 3, states.encode())])
    assert (pending and pending.reason) == reason


def test_unhealthy_service_is_a_failed_deploy(tmp_path: Path, short_interval: None) -> None:
    change = Command("change", f"test -e {tmp_path}/done", f"touch {tmp_path}/done")
    for _ in range(2):  # also in the next run, which finds nothing else to do
        with pytest.raises(HomelabError) as error:
            converge(LocalHost(), [change, file_check(tmp_path, [change], deadline=0.2)], SilentProgress())
        assert error.value.brief == "Cannot finish the deploy of service on local: it is not healthy after 0 s"
        assert error.value.details.startswith("its file is missing")
        assert "homelab logs local" in error.value.resolution
