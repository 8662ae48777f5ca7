"""The guard: no test, and no program that a test starts, talks to a machine that is not the lab's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab.steps import remote_paths
from tests.network_guard import sitecustomize  # the import puts the guard in place

_GUARD = str(Path(sitecustomize.__file__).parent)


def pytest_configure() -> None:
    """Python programs that tests start find the guard first on their path."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH")]))


@pytest.fixture(autouse=True)
def _own_places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What steps note on a host that is this machine, they note in a folder of the test's own."""
    if request.node.get_closest_marker("lab"):
        return  # its hosts are containers that are nobody else's
    folder = tmp_path_factory.mktemp("places")
    monkeypatch.setattr(remote_paths, "STATE", str(folder / "state"))
    monkeypatch.setattr(remote_paths, "RUN", str(folder / "run"))
