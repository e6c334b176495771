"""Processes that share a notebook's work, and end with it however it ends."""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def spawned(
    processes: int, begin: Callable[..., None] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes; each calls begin(*given) before its first job.

    When the block is left by an error or an interruption, jobs that have not begun are cancelled. When this
    process is killed, so are its workers: a pool of the standard library would wait for jobs for ever.
    """
    context = multiprocessing.get_context("spawn")  # PyTorch's and Polars' threads do not survive a fork
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(begin, given))
    try:
        yield pool
    except BaseException:
        # Not `with ProcessPoolExecutor()`: its end takes back that jobs are to be cancelled.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _begin(begin: Callable[..., None] | None, given: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
