"""Parallel work on several containers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import TypeVar

from homelab.errors import HomelabError

T = TypeVar("T")


def start(name: str, job: Callable[[], T]) -> Future[T]:
    """Run a job in a thread of that name and return its future.

    Unlike a pool's, the thread does not outlive an interrupted main thread: its remote work continues, and the next
    run finds it.
    """
    future = Future[T]()
    threading.Thread(target=_run, args=(job, future), name=name, daemon=True).start()
    return future


def run_all(work: Mapping[str, Callable[[], T]]) -> dict[str, Future[T]]:
    """Run jobs in parallel and wait for all; return their futures by name. A failing job does not stop the others."""
    futures = {name: start(name, job) for name, job in work.items()}
    wait(futures.values())
    return futures


def run_all_or_raise(work: Mapping[str, Callable[[], T]], noun: str = "containers") -> dict[str, T]:
    """Run jobs in parallel and return their results by name. Raises the only HomelabError, or one that names all."""
    ended = run_all(work)
    failures = [failure for future in ended.values() if (failure := future.exception()) is not None]
    for failure in failures:
        # A common cause, such as a cluster without quorum, is reported once.
        if len({str(each) for each in failures}) == 1 or not isinstance(failure, HomelabError):
            raise failure
    if failures:
        raise HomelabError(
            f"Cannot complete the work on {len(failures)} of {len(work)} {noun}",
            "\n\n".join(str(failure) for failure in failures),
            "The work on the others is complete. Run the same command again to continue.",
        )
    return {name: future.result() for name, future in ended.items()}


def _run(job: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
        future.set_exception(error)
