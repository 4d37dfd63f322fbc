"""Calls side by side, each in a process of its own, that log where this process does."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from logging.handlers import QueueHandler
from multiprocessing.queues import Queue

import lightning.pytorch  # noqa: F401, sets levels of its own, once, which come before ours
import torch

from tritonpool.cli.errors import InputError

__all__ = ["processes", "side_by_side"]

# seconds for the last records: a process that was killed may have left half of one, and the lock
PATIENCE = 5
LOGGERS = ("", "tritonpool", "lightning.pytorch", "lightning.fabric")  # whose levels are set
OWN_HANDLERS = ("lightning", "lightning.pytorch", "lightning.fabric")


@contextmanager
def processes(number: int) -> Iterator[Callable[..., Future]]:
    """Processes that share the threads this one would use.

    Their log goes to the handlers of this process. Ctrl-C is for this process alone, which answers
    SIGTERM in the same way. They are told to stop (SIGTERM) if the context is left by an exception,
    and end if this process does. A call that waits for a process may then still be begun, so give
    them no more than can run.

    Parameters
    ----------
    number
        How many of them, at least 1.

    Yields
    ------
    Callable
        ``submit`` of a ``ProcessPoolExecutor``; for the main thread
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    records = context.Queue()
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    threads = max(1, torch.get_num_threads() // number)
    others = set(multiprocessing.active_children())
    relay = threading.Thread(target=_relay, args=(records,), daemon=True)
    relay.start()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ProcessPoolExecutor(number, context, _begin, (records, levels, threads)) as pool:
            try:
                yield partial(_submit, pool)
            except BaseException:
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
        records.put(None)
        relay.join(PATIENCE)
        records.cancel_join_thread()


def side_by_side(
    train: Callable, calls: Iterable[tuple[object, tuple]], jobs: int
) -> Iterator[tuple[object, object]]:
    """Trainings one after the other here, or several at a time in processes of their own.

    Parameters
    ----------
    train
        What is called, with the keyword ``progress`` too: whether progress bars may be shown.
    calls
        Keys, and what is trained; the next is asked for when a process has nothing to do, and when
        all earlier results were yielded.
    jobs
        How many at a time.

    Yields
    ------
    tuple
        The key and the result of each call, as they end.

    Raises
    ------
    InputError
        If they are interrupted, or a process is killed.
    """
    if jobs < 2:
        yield from ((key, train(*given)) for key, given in calls)
        return
    waiting, running = iter(calls), {}
    with processes(jobs) as submit:
        try:
            while True:
                for key, given in islice(waiting, jobs - len(running)):
                    running[submit(train, *given, progress=False)] = key
                if not running:
                    return
                for call in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(call), call.result()
        except KeyboardInterrupt as error:
            raise InputError(
                "the trainings were interrupted; the same command goes on with them"
            ) from error
        except BrokenProcessPool as error:
            raise InputError(
                "a training was ended from outside, perhaps because memory ran out; the same "
                "command goes on with it, with fewer --jobs if need be"
            ) from error


def _relay(records: Queue) -> None:
    """Give records of the processes to the handlers of this one."""
    for record in iter(records.get, None):
        for handler in logging.getLogger().handlers:
            if record.levelno >= handler.level:
                handler.handle(record)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _submit(pool: ProcessPoolExecutor, *call: object, **named: object) -> Future:
    """Submit a call; a process that is started for it never sees Ctrl-C, not even before it can
    say so itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return pool.submit(*call, **named)
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(records: Queue, levels: dict[str, int], threads: int) -> None:
    """Set up a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger().handlers = [QueueHandler(records)]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name in OWN_HANDLERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    if levels[""] > logging.DEBUG:
        warnings.simplefilter("ignore")  # of others; ours are in the log
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was started by another"
    parent.join()
    os._exit(1)
