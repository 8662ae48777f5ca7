"""Print the state of the broker's stream as JSON, or as metrics in Prometheus' format: report.py json|metrics PORT."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any


def read(port: int) -> Mapping[str, Any]:
    """Return the state of the stream, from the server's monitoring on loopback."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/jsz?consumers=true&config=true", timeout=5) as response:
        accounts = json.load(response).get("account_details") or []
    (stream,) = [stream for account in accounts for stream in account.get("stream_detail") or []]
    consumers = stream.get("consumer_detail") or []
    pending, unacknowledged = (sum(each[name] for each in consumers) for name in ("num_pending", "num_ack_pending"))
    complete = len(consumers) == len(stream["config"]["subjects"])
    return {
        # Not the number in the stream: a server that is killed between the note of an acknowledgement and the removal
        # of its message keeps this message for ever, and never delivers it again.
        "messages": pending + unacknowledged if complete else stream["state"]["messages"],
        "bytes": stream["state"]["bytes"],
        "limit_bytes": stream["config"]["max_bytes"],
        "pending": pending,
        "unacknowledged": unacknowledged,
        "redelivered": sum(each["num_redelivered"] for each in consumers),
        "consumers": len(consumers),
        "read": sum(each["num_waiting"] > 0 or each["num_ack_pending"] > 0 for each in consumers),
    }


def main() -> None:
    """Print it in the form that the first argument names."""
    state = read(int(sys.argv[2]))
    if sys.argv[1] == "json":
        print(json.dumps(state))
        return
    for name in ("messages", "bytes", "limit_bytes", "pending", "unacknowledged", "redelivered", "consumers", "read"):
        print(f"homelab_broker_{name} {state[name]}")


if __name__ == "__main__":
    main()
