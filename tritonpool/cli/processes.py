"""Calls side by side, each in a process of its own, that log where this process does."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from multiprocessing.queues import Queue

import lightning.pytorch  # noqa: F401, sets levels of its own, once, which come before ours
import torch

__all__ = ["processes"]

LOGGERS = ("", "tritonpool", "lightning.pytorch", "lightning.fabric")  # whose levels are set


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that share the threads this one would use.

    Their log goes to the handlers of this process, and Ctrl-C is for this process alone. They are
    told to stop (SIGTERM) if the context is left by an exception, and end if this process does. A
    call that waits in the pool may then still be begun, so give it no more than can run.

    Parameters
    ----------
    number
        How many of them, at least 1.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    records = context.Queue()
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    threads = max(1, torch.get_num_threads() // number)
    others = set(multiprocessing.active_children())
    listener = QueueListener(records, *logging.getLogger().handlers, respect_handler_level=True)
    listener.start()
    try:
        with ProcessPoolExecutor(number, context, _begin, (records, levels, threads)) as pool:
            try:
                yield pool
            except BaseException:
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
                raise
    finally:
        listener.stop()


def _begin(records: Queue, levels: dict[str, int], threads: int) -> None:
    """Set up a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger().handlers = [QueueHandler(records)]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if levels[""] > logging.DEBUG:
        warnings.simplefilter("ignore")  # of others; ours are in the log
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was started by another"
    parent.join()
    os._exit(1)
