"""The health checks at the end of a deploy; the outcome of a service's last runs does not matter."""

from __future__ import annotations

import os
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
        ("active active", None),
        ("active activating", "b is activating"),
        ("failed inactive", "a is failed; b is inactive"),
    ],
)
def test_service_with_a_unit_that_is_not_active_is_awaited(states: str, reason: str | None) -> None:
    check = HealthCheck("service", ["true"], lambda _: Health(True, "fine"), ("a", "b"))
    assert check.probes() == ("true", "systemctl show --property=ActiveState,NRestarts a b")
    shown = "\n\n".join(f"NRestarts=0\nActiveState={state}" for state in states.split())
    pending = check.check([Result("true", 0), Result("", 0, shown.encode())])
    assert (pending and pending.reason) == reason


@pytest.mark.parametrize(
    ("restarts", "journal", "brief", "end"),
    [
        (
            9,
            "listen tcp :9090: bind: address already in use",
            "Cannot start b.service on local: the unit is not active",
            "Another process in local already listens on that port.",
        ),
        (
            2,
            "listen tcp :9090: bind: address already in use",
            "Cannot finish the deploy of service on local: it is not healthy after 1 s",
            "address already in use",
        ),
        (
            9,
            "connect: No route to host",
            "Cannot finish the deploy of service on local: it is not healthy after 1 s",
            "local has no route to that address.",
        ),
        (
            9,
            "wrong number of planets",
            "Cannot finish the deploy of service on local: it is not healthy after 1 s",
            "wrong number of planets",
        ),
    ],
)
def test_unit_that_ends_again_and_again_is_awaited_unless_its_cause_lasts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_interval: None,
    restarts: int,
    journal: str,
    brief: str,
    end: str,
) -> None:
    """Its state is `active` at each look, as long as its program needs to find its port taken."""
    show = f'''n=$(cat {tmp_path}/n 2>/dev/null || echo 5); [ $n -ge {5 + restarts} ] || echo $((n + 1)) >{tmp_path}/n
printf 'ActiveState=active\n\nNRestarts=%s\nActiveState=active\n' "$n"'''
    for name, text in {"systemctl": show, "journalctl": f"echo 'Started.\n{journal}'"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    units = ("a.timer", "b.service")
    check = HealthCheck("service", ["false"], lambda _: Health(False, "does not answer"), units, deadline=1)
    with pytest.raises(HomelabError) as error:
        check.apply(LocalHost())
    assert error.value.brief == brief
    assert error.value.details.endswith(end)
    assert journal in error.value.details


def test_unhealthy_service_is_a_failed_deploy(tmp_path: Path, short_interval: None) -> None:
    change = Command("change", f"test -e {tmp_path}/done", f"touch {tmp_path}/done")
    for _ in range(2):  # also in the next run, which finds nothing else to do
        with pytest.raises(HomelabError) as error:
            converge(LocalHost(), [change, file_check(tmp_path, [change], deadline=0.2)], SilentProgress())
        assert error.value.brief == "Cannot finish the deploy of service on local: it is not healthy after 0 s"
        assert error.value.details.startswith("its file is missing")
        assert "homelab logs local" in error.value.resolution
