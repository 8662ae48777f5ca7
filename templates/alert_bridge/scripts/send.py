"""Send the message in standard input, a JSON as of Alertmanager's webhook, through one receiver.

Print the reason why the receiver did not take the message, or which recipients did not; the exit status is 1 only if
none took it.

With `--test`, send a test message through each receiver, and print the reasons by receiver as JSON; they are empty for
those that took the message. The exit status is 1 if there is a reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import settings
from messages import message_of
from receivers import NotSent, PartlySent, send


def test_payload(container: str) -> Mapping[str, Any]:
    """Return the payload of a test message."""
    summary = f"Test message from {container}"
    alert = {
        "status": "firing",
        "labels": {"alertname": "Test", "severity": "none", "container": container},
        "annotations": {"summary": summary, "details": "This receiver works.", "command": "homelab alerts test"},
        "startsAt": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {"version": "4", "status": "firing", "alerts": [alert]}


def main() -> int:
    """Parse the options and send; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("receiver", nargs="?", help="name of the receiver")
    parser.add_argument("--test", action="store_true", help="send a test message through each receiver")
    parser.add_argument("--settings", type=Path, default=settings.FILE, help="file of the settings")
    options = parser.parse_args()
    found = settings.read(options.settings)
    receivers: Mapping[str, Mapping[str, Any]] = found["receivers"]
    payload = test_payload(found["container"]) if options.test else json.load(sys.stdin)
    message = message_of(payload, found["lab"])

    def failure(receiver: Mapping[str, Any]) -> NotSent | None:
        try:
            send(receiver, message)
        except NotSent as error:
            return error
        return None

    if not options.test:
        refusal = failure(receivers[options.receiver])
        print(refusal or "")
        return int(not isinstance(refusal, PartlySent | None))
    with ThreadPoolExecutor(len(receivers)) as pool:
        failures = zip(receivers, pool.map(failure, receivers.values()), strict=True)
        reasons = {name: str(each or "") for name, each in failures}
    print(json.dumps(reasons))
    return int(any(reasons.values()))


if __name__ == "__main__":
    sys.exit(main())
