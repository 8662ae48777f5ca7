"""Airflow's login to the gate on the container of the pipeline: its key, and the wait for the gate."""

from __future__ import annotations

from itertools import chain

from homelab.model import Container, ServiceContext
from homelab.sandbox import Sandbox
from homelab.steps import WaitFor

FOLDER = "/etc/airflow"
KEY = f"{FOLDER}/analytics.key"
KNOWN_HOSTS = f"{FOLDER}/known_hosts"
# From OpenSSH 9.8 on, each refused login adds a penalty of 5 s to its address, and at 15 s sshd refuses the address.
_LOGIN_INTERVAL = 5.5  # seconds


def _refused_by_gate(sandbox: Sandbox, address: str) -> str:
    """Return shell text that succeeds when the gate behind Airflow's key works: it refuses an unknown command."""
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "ConnectTimeout=3",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"UserKnownHostsFile={KNOWN_HOSTS}",
    )
    words = ["/usr/bin/ssh", "-i", KEY, *chain.from_iterable(("-o", option) for option in options)]
    login = sandbox.run(*words, f"analytics@{address}", "nothing")
    return f"{login} 2>&1 | grep -q '^refused:'"


def wait_for_gate(context: ServiceContext, sandbox: Sandbox, analytics: Container) -> WaitFor:
    """Return the step that waits until the gate on a container accepts Airflow's key."""
    return WaitFor(
        f"{analytics.name} accepts Airflow's key",
        _refused_by_gate(sandbox, str(analytics.address)),
        analytics.name,
        context.failed,
        context.wait_deadline(analytics),
        interval=_LOGIN_INTERVAL,
    )
