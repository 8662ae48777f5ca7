"""The address of this worker, which Airflow asks for the logs of its tasks: no name of it has to resolve."""

import os


def own_address() -> str:
    """Return the address."""
    return os.environ["HOMELAB_ADDRESS"]
