"""Print the state of the broker's topics as JSON, or as metrics in Prometheus' format: report.py json|metrics PORT."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

_OLDEST = 60  # seconds


def read(port: int) -> Mapping[str, Any]:
    """Return the state of the topics, from the program that deletes stored messages."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/state", timeout=5) as response:
        state: Mapping[str, Any] = json.load(response)
    if state["at"] < time.time() - _OLDEST:
        raise SystemExit(f"error: the broker does not answer: {state['problem']}")
    return state


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
