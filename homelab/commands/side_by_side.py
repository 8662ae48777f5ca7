"""Work on several containers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from homelab.errors import HomelabError


def side_by_side(work: Mapping[str, Callable[[], None]]) -> None:
    """Do all of it at once, by container name, and wait for the end. One that fails does not stop the others.

    Raises the one HomelabError, or one that names them all. The threads do not outlive an interrupted main thread:
    what they have begun goes on on the node, and the next run finds it.
    """
    results: SimpleQueue[tuple[str, BaseException | None]] = SimpleQueue()
    for name, job in work.items():
        threading.Thread(target=_run, args=(name, job, results), name=name, daemon=True).start()
    ended = dict(results.get() for _ in work)
    failures = {name: ended[name] for name in work if ended[name] is not None}
    for failure in failures.values():
        if failure is not None and (len(failures) == 1 or not isinstance(failure, HomelabError)):
            raise failure
    if failures:
        raise HomelabError(f"{len(failures)} of {len(work)} containers failed",
                           "\n\n".join(str(failure) for failure in failures.values()),
                           "What the others needed has been done. Run the same command again to go on.")


def _run(name: str, job: Callable[[], None], results: SimpleQueue[tuple[str, BaseException | None]]) -> None:
    failure: BaseException | None = None
    try:
        job()
    except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
        failure = error
    results.put((name, failure))
