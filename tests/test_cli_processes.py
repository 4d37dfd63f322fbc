"""Calls in processes of their own share threads, log here, and end when they should."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tritonpool.cli.processes import processes


def tell(text: str) -> tuple[int, int]:
    logging.getLogger("tritonpool.somewhere").warning("from %s", text)
    logging.getLogger("tritonpool.somewhere").info("not asked for")
    return os.getpid(), torch.get_num_threads()


def fail_or_wait(path: Path | None) -> None:
    if path is None:
        raise ValueError("too hot")
    path.with_suffix(".begun").touch()
    time.sleep(300)
    path.touch()


def ignores_interrupts() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_they_share_threads_and_log_here(caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "tritonpool")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    before = signal.getsignal(signal.SIGINT)
    with processes(2) as submit:
        found = [call.result() for call in [submit(tell, text) for text in ("one", "two")]]
        assert submit(ignores_interrupts).result()
    assert signal.getsignal(signal.SIGINT) is before
    assert all(pid != os.getpid() for pid, _ in found)
    assert [threads for _, threads in found] == [3, 3]
    assert sorted(caplog.messages) == ["from one", "from two"]


def test_an_error_ends_all(tmp_path):
    path = tmp_path / "slept"
    with pytest.raises(ValueError, match="too hot"), processes(2) as submit:
        submit(fail_or_wait, path)
        while not path.with_suffix(".begun").exists():
            time.sleep(0.05)
        submit(fail_or_wait, None).result()
    assert not multiprocessing.active_children() and not path.exists()


def log_on(path: Path) -> None:
    path.touch()
    while True:
        logging.getLogger("tritonpool.somewhere").warning("x" * 200_000)


def test_what_is_killed_while_it_logs_is_not_waited_for(tmp_path):
    """Half of a record is never followed by the other, nor by any of another process."""
    with pytest.raises(RuntimeError, match="enough"), processes(1) as submit:
        submit(log_on, tmp_path / "begun")
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)
        raise RuntimeError("enough")
    assert not multiprocessing.active_children()


def test_sigterm_is_as_ctrl_c(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), processes(1) as submit:
        submit(fail_or_wait, tmp_path / "slept")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert signal.getsignal(signal.SIGTERM) is before and not multiprocessing.active_children()


PARENT = """
import os, time
from tritonpool.cli.processes import processes

if __name__ == "__main__":
    with processes(1) as submit:
        print(submit(os.getpid).result(), flush=True)
        submit(time.sleep, 300)
        os._exit(1)
"""


def test_they_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=120)
    child = int(done.stdout)
    for _ in range(600):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it went on")
