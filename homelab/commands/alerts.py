"""`homelab alerts test`: a test message through each receiver of the inventory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from homelab.errors import HomelabError
from homelab.host import expected_format
from homelab.runtime.session import Session
from homelab.services.alert_bridge import sender, test_command


@dataclass(frozen=True, slots=True)
class Delivery:
    """A receiver, and the reason why it did not take the message; empty if it did."""

    receiver: str
    sent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AlertTest:
    """The container that sent the test messages, and the result of each receiver."""

    container: str
    deliveries: Sequence[Delivery]

    @property
    def all_sent(self) -> bool:
        """True if each receiver took its message."""
        return all(each.sent for each in self.deliveries)


def send_test(session: Session) -> AlertTest:
    """Send a test message through each receiver. Raises HomelabError if the container cannot send any."""
    container = sender(session.inventory)
    with session.connect(container) as host:
        result = host.run(test_command(), timeout=120)
    if not result.text.startswith("{"):
        raise HomelabError(
            f"Cannot send test messages from {container.name}: the alert bridge does not run there",
            "\n".join((result.stderr.decode(errors="replace") or result.text).splitlines()[-5:]),
            "Run `homelab deploy`.",
        )
    with expected_format(container.name, "read the results of the test messages"):
        reasons = {str(name): str(reason) for name, reason in json.loads(result.text).items()}
    return AlertTest(container.name, [Delivery(name, not reason, reason) for name, reason in reasons.items()])
