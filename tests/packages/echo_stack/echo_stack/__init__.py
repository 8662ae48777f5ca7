"""A service and a pipeline of another repository."""

from pathlib import Path

ECHOES = Path(__file__).parent / "echoes"
