"""Work on several containers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import TypeVar

from homelab.errors import HomelabError

T = TypeVar("T")


def start(name: str, job: Callable[[], T]) -> Future[T]:
    """Do it in a thread of that name; what comes of it.

    The thread does not outlive an interrupted main thread, as a pool's would: what it has begun goes on over there,
    and the next run finds it.
    """
    future = Future[T]()
    threading.Thread(target=_run, args=(job, future), name=name, daemon=True).start()
    return future


def run_all(work: Mapping[str, Callable[[], T]]) -> dict[str, Future[T]]:
    """Do all of it at once, by container name, and wait for the end. One that fails does not stop the others."""
    futures = {name: start(name, job) for name, job in work.items()}
    wait(futures.values())
    return futures


def run_all_or_raise(work: Mapping[str, Callable[[], T]], what: str = "containers") -> dict[str, T]:
    """Do all of it at once; what came of each. Raises the one HomelabError, or one that names them all."""
    ended = run_all(work)
    failures = [failure for future in ended.values() if (failure := future.exception()) is not None]
    for failure in failures:
        # One that they all have in common, as a cluster without quorum, is said once.
        if len({str(each) for each in failures}) == 1 or not isinstance(failure, HomelabError):
            raise failure
    if failures:
        raise HomelabError(
            f"{len(failures)} of {len(work)} {what} failed",
            "\n\n".join(str(failure) for failure in failures),
            "What the others needed has been done. Run the same command again to go on.",
        )
    return {name: future.result() for name, future in ended.items()}


def _run(job: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
        future.set_exception(error)
