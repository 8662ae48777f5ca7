"""The address of this worker, from which Airflow reads the logs of its tasks: its name need not resolve."""

import os


def own_address() -> str:
    """Return the address."""
    return os.environ["HOMELAB_ADDRESS"]
