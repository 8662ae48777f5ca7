"""Setup of all tests: the network guard, the processes of the labs, and folders for the notes of steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from homelab.steps import remote_paths
from tests.network_guard import sitecustomize  # the import installs the guard

_LABS = ("tests/e2e/", "tests/integration/test_lab_")
# Their addresses are in the upper half of the network of all labs.
_UPPER_LABS = (
    "tests/e2e/",
    "tests/integration/test_lab_airflow.py",
    "tests/integration/test_lab_alerts.py",
    "tests/integration/test_lab_broker.py",
    "tests/integration/test_lab_celery.py",
    "tests/integration/test_lab_own_pipeline.py",
)
_GUARD = str(Path(sitecustomize.__file__).parent)


def pytest_configure() -> None:
    """Install the guard in Python programs that tests start: they find it first on their path."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH")]))


class TwoLabs(LoadFileScheduling):
    """The distribution of `--dist loadfile`, with the files of the labs in two processes.

    Labs share addresses, so each half of the labs' network has a process of its own. Labs wait for half of their time,
    in which a third process runs the other tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_UPPER_LABS):
            return "upper labs"
        return "lower labs" if nodeid.startswith(_LABS) else super()._split_scope(nodeid)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return at least one process more than those of the labs, which mostly wait, for `--dist loadfile`."""
    return max(3, os.cpu_count() or 1) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> TwoLabs | None:
    """Return the distribution of the tests to processes, for `--dist loadfile`."""
    return TwoLabs(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _own_notes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give each test its own folder for the notes that steps write on a host that is this machine."""
    if request.node.get_closest_marker("lab"):
        return  # its hosts are containers of its own
    folder = tmp_path_factory.mktemp("notes")
    monkeypatch.setattr(remote_paths, "STATE", str(folder / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(folder / "run"))
