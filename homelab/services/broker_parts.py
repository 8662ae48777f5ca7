"""The names that both kinds of the broker share, and the share of each consumer in the work."""

from __future__ import annotations

from collections.abc import Mapping

from homelab.host import argv
from homelab.model import Container, Inventory
from homelab.pipelines.broker_contract import CONSUMERS
from homelab.sandbox import Sandbox

UNIT = "homelab-broker.service"
SETUP = "setup"  # the identity that creates the stream or the topics
SANDBOX = Sandbox("homelab-broker", ("/var/lib/homelab-broker",))
FOLDER = "/opt/homelab/broker"
MONITOR_PORT = 8222  # of the state, on loopback
REPORT_FILE = f"{FOLDER}/report.py"
_REPORT = argv("python3", "-B", REPORT_FILE)
STATE, METRICS = f"{_REPORT} json {MONITOR_PORT}", f"{_REPORT} metrics {MONITOR_PORT}"


def consumer_user(container: Container) -> str:
    """Return the identity of the consumer in a container."""
    return f"consumer-{container.name}"


def parts(inventory: Inventory, container: Container) -> Mapping[str, str]:
    """Return the durable consumers that a container serves, with their subjects; the program divides them likewise."""
    names = [each.name for each in inventory.containers_with("consumer")]
    part = names.index(container.name)
    return dict(each for number, each in enumerate(CONSUMERS.items()) if number % len(names) == part)


def state_is_complete(disk: int) -> str:
    """Return shell text that succeeds if the broker has this limit in bytes, and all subjects."""
    return f'{STATE} | grep -q \'"limit_bytes": {disk},.*"consumers": {len(CONSUMERS)},\''
