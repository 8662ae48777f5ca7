"""The guard: no test, and no program that a test starts, talks to a machine that is not the lab's."""

from __future__ import annotations

import os
from pathlib import Path

from tests.guard import sitecustomize  # the import puts the guard in place

_GUARD = str(Path(sitecustomize.__file__).parent)


def pytest_configure() -> None:
    """Python programs that tests start find the guard first on their path."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_GUARD, os.environ.get("PYTHONPATH")]))
