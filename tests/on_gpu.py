"""Where there is a GPU, the Triton kernels run on it in every test, also for tensors on the CPU."""

from collections.abc import Callable, Iterator
from functools import wraps

import pytest
import torch
from torch import Tensor

from tritonpool import backend
from tritonpool.coarse_plan import CoarsePlan
from tritonpool.plan import Plan


def _moved(argument: object) -> object:
    if isinstance(argument, tuple | list):
        return [_moved(a) for a in argument]
    return argument.to("cuda") if isinstance(argument, Tensor | Plan | CoarsePlan) else argument


def _through(function: Callable) -> Callable:
    """The function with its arguments brought to the GPU, and its results back to the CPU."""
    from tritonpool.kernels.launch import INTERPRETER, target_of

    @wraps(function)
    def run(*args):
        first = next(a for a in args if isinstance(a, Tensor))
        if target_of(first) != INTERPRETER:  # on the GPU already, or launches are only listed
            return function(*args)
        found = function(*map(_moved, args))
        if isinstance(found, Tensor):
            return found.cpu()
        return tuple(None if t is None else t.cpu() for t in found)

    return run


@pytest.fixture(scope="module")
def kernels_on_gpu() -> Iterator[None]:
    """For modules that test the kernels. On a machine without a GPU, where kernels are interpreted,
    nothing changes."""
    if not torch.cuda.is_available():
        yield
        return
    from tritonpool import kernels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_interpreting", lambda: True)
        for name in kernels.__all__:
            patch.setattr(kernels, name, _through(getattr(kernels, name)))
        yield
