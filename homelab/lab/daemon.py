"""The node's process: `python -m homelab.lab.daemon --lab JSON --template FILE …`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from homelab.lab.node import LabNode
from homelab.lab.settings import Lab


async def serve(lab: Lab, templates: Sequence[Path]) -> None:
    """Serve the API until SIGTERM; the containers keep running afterwards."""
    tokens = (file.read_text().strip() for file in (lab.token_file, lab.monitoring_token_file))
    node = LabNode(lab, templates, *tokens)
    await asyncio.to_thread(node.recover)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await node.start(str(lab.certificate), str(lab.certificate.with_suffix(".key")))
    await node.listen_for_containers()
    logging.info("serving %s with %d containers", node.url, len(node.cts))
    await node.start_after_boot()
    await ended.wait()
    await node.stop()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="homelab.lab.daemon")
    parser.add_argument("--lab", type=Lab.from_json, required=True)
    parser.add_argument("--template", type=Path, required=True, action="append")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.lab, given.template))


if __name__ == "__main__":
    main()
