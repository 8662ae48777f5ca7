"""The commands around an upgrade run once each, in order, and a failed one leaves the recorded version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.model import Step
from homelab.progress import SilentProgress
from homelab.steps import Command, Upgrade, remote_paths
from homelab.steps.converge import converge
from homelab.steps.host_state import pending_changes
from tests.support import LocalHost


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the commands write."""
    monkeypatch.setattr(remote_paths, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(tmp_path / "run"))
    return tmp_path / "log"


def upgrade_to(version: str, log: Path, **changes: Sequence[str]) -> Upgrade:
    commands: dict[str, Sequence[str]] = {
        "before": [f"echo before {version} >>{log}"],
        "after": [f"echo after {version} >>{log}"],
    }
    return Upgrade(service="echo", version=version, **(commands | changes))


def steps_of(upgrade: Upgrade, log: Path, install: str = "true") -> Sequence[Step]:
    folder = f"{remote_paths.STATE}/installed"
    command = f"{install} && echo install {upgrade.version} >>{log} && mkdir -p {folder}/{upgrade.version}"
    installed = Command("install echo", f"test -d {folder}/{upgrade.version}", command)
    return [upgrade.prepare(), installed, upgrade.finish()]


def deploy(steps: Sequence[Step], log: Path) -> list[str]:
    """Deploy, check that a second deploy changes nothing, and return the new lines of the log."""
    log.unlink(missing_ok=True)
    converge(LocalHost(), steps, SilentProgress())
    assert pending_changes(LocalHost(), steps) == []
    return log.read_text().splitlines() if log.exists() else []


def test_commands_run_before_and_after_the_installation_of_another_version(log: Path) -> None:
    assert deploy(steps_of(upgrade_to("1", log), log), log) == ["install 1", "after 1"]
    steps = steps_of(upgrade_to("2", log), log)
    assert [change.pending.reason for change in pending_changes(LocalHost(), steps)] == [
        "1 becomes 2",
        "not done yet",
        "1 becomes 2",
    ]
    assert deploy(steps, log) == ["before 2", "install 2", "after 2"]


def test_failed_preparation_names_service_command_and_output_and_installs_nothing(log: Path) -> None:
    deploy(steps_of(upgrade_to("1", log), log), log)
    broken = upgrade_to("2", log, before=["true", "echo no space left for the dump >&2; exit 4"])
    with pytest.raises(HomelabError, match="Cannot prepare the upgrade of echo on") as caught:
        converge(LocalHost(), steps_of(broken, log), SilentProgress())
    assert "`echo no space left for the dump >&2; exit 4` ended with status 4" in caught.value.details
    assert "\n  no space left for the dump" in caught.value.details
    assert log.read_text().splitlines() == ["install 1", "after 1"]
    assert deploy(steps_of(upgrade_to("1", log), log), log) == []


def test_failed_migration_keeps_the_recorded_version_and_is_repeated_without_a_second_dump(log: Path) -> None:
    deploy(steps_of(upgrade_to("1", log), log), log)
    upgrade = upgrade_to("2", log)
    with pytest.raises(HomelabError, match=r"Cannot upgrade echo on .*: the command failed"):
        converge(LocalHost(), steps_of(replace(upgrade, after=["exit 1"]), log), SilentProgress())
    assert Path(upgrade.recorded).read_text() == "1"
    assert deploy(steps_of(upgrade, log), log) == ["after 2"]


def test_failed_installation_does_not_repeat_the_preparation_with_the_next_version(log: Path) -> None:
    deploy(steps_of(upgrade_to("1", log), log), log)
    with pytest.raises(HomelabError, match="install echo"):
        converge(LocalHost(), steps_of(upgrade_to("2", log), log, "false"), SilentProgress())
    assert deploy(steps_of(upgrade_to("3", log), log), log) == ["install 3", "after 3"]


def test_return_to_the_old_version_forgets_the_preparation(log: Path) -> None:
    deploy(steps_of(upgrade_to("1", log), log), log)
    with pytest.raises(HomelabError, match="install echo"):
        converge(LocalHost(), steps_of(upgrade_to("2", log), log, "false"), SilentProgress())
    assert deploy(steps_of(upgrade_to("1", log), log), log) == []
    assert deploy(steps_of(upgrade_to("2", log), log), log) == ["before 2", "install 2", "after 2"]


def test_migration_runs_again_after_its_data_was_lost(log: Path) -> None:
    table = log.with_name("table")
    upgrade = upgrade_to("1", log, after=[f"echo migrated >>{log}; touch {table}"], done=[f"test -f {table}"])
    assert deploy(steps_of(upgrade, log), log) == ["install 1", "migrated"]
    table.unlink()
    assert deploy(steps_of(upgrade, log), log) == ["migrated"]
