"""Setup of all tests: the network guard, and folders for the notes of steps on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homelab.steps import remote_paths
from tests.network_guard import sitecustomize  # the import installs the guard

_GUARD = str(Path(sitecustomize.__file__).parent)


def pytest_configure() -> None:
    """Install the guard in Python programs that tests start: they find it first on their path."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH")]))


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
