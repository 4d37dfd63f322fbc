"""The memory that a function takes: at once, and until backward."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_memory", "saved_bytes"]


def peak_memory(function: Callable[[], object], device: str | torch.device) -> int:
    """Run a function once and return the peak of its tensor memory.

    On a CUDA or ROCm device this is what torch's allocator counts. A CPU's allocator keeps no such
    count, so every allocation and release is read from a profile there.

    Parameters
    ----------
    function : Callable[[], object]
        what to run
    device : str | torch.device
        where its tensors are

    Returns
    -------
    int
        bytes beyond those held when it began
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def saved_bytes(function: Callable[[], object]) -> dict[int, int]:
    """What autograd keeps for backward after a function has run.

    Returns
    -------
    dict
        the address of each storage that is kept, and its bytes; a sparse tensor counts by its
        values
    """
    seen, alive = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout == torch.strided:
            dense = tensor
        else:  # values() refuses indices that are not coalesced
            dense = tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()
        storage = dense.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        alive.append(storage)  # or another tensor could take the address over
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return seen


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard error: torch's profiler reports there, past Python, that it starts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
