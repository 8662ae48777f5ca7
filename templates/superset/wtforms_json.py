"""A stand-in for the package of this name, which has no wheel: Superset calls `init` once, and uses nothing of it."""


def init() -> None:
    """Do nothing."""
