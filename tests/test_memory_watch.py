"""That faults of memory are seen (``memory_watch.py``), with kernels that have one each, and that
no kernel of the package escapes."""

import importlib
import os
import pkgutil

import pytest
import torch

if os.environ["TRITON_INTERPRET"] != "1":
    pytest.skip("needs a machine without a GPU", allow_module_level=True)
triton = pytest.importorskip("triton", reason="needs Triton")
tl = triton.language

from memory_watch import MemoryFault  # noqa: E402

from benchmarks.builds import call_all  # noqa: E402
from tritonpool import kernels  # noqa: E402


@triton.jit
def copy_kernel(x_ptr, out_ptr, n, limit, shift, BLOCK: tl.constexpr):
    own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + own + shift, own < limit, 0.0)
    tl.store(out_ptr + own, x, own < n)


def copy(x, out, n=5, limit=5, shift=0):
    copy_kernel[(2,)](x, out, n, limit, shift, BLOCK=4)


def test_lanes_that_are_masked_access_nothing(watched_kernels):
    x, out = torch.rand(5), torch.zeros(5)
    copy(x, out)
    assert torch.equal(out, x)
    assert watched_kernels == ["copy_kernel"]


def test_the_last_lane_reads_one_too_many():
    with pytest.raises(MemoryFault, match=r"copy_kernel: .*\(1, 0, 0\) reads x_ptr\[5\].*holds 5"):
        copy(torch.rand(5), torch.zeros(5), limit=6)


def test_a_read_before_the_first_number():
    with pytest.raises(MemoryFault, match=r"\(0, 0, 0\) reads x_ptr\[-1\]"):
        copy(torch.rand(5), torch.zeros(5), shift=-1)


def test_a_write_beyond_the_tensor_is_reported_and_not_made():
    buffer = torch.zeros(8)
    with pytest.raises(MemoryFault, match=r"writes out_ptr\[5\], which holds 5"):
        copy(torch.rand(8), buffer[:5], n=8, limit=8)
    assert buffer[:5].all()
    assert not buffer[5:].any()


def test_a_neighbour_in_the_same_memory_is_out_of_reach():
    both = torch.rand(10)
    with pytest.raises(MemoryFault, match=r"reads x_ptr\[5\]"):
        copy(both[:5], both[5:], limit=6)


def test_an_empty_tensor_holds_nothing():
    with pytest.raises(MemoryFault, match=r"reads x_ptr\[0\], which holds 0"):
        copy(torch.rand(0), torch.zeros(5))


@triton.jit
def meet_kernel(out_ptr, step, lanes, READ: tl.constexpr, BARRIER: tl.constexpr):
    lane = tl.arange(0, 4)
    own = tl.program_id(0) * step + lane // lanes
    tl.store(out_ptr + own, lane)
    if BARRIER:
        tl.debug_barrier()
    if READ:
        tl.store(out_ptr + own + 16, tl.load(out_ptr + own))


def meet(step=4, lanes=1, READ=False, BARRIER=False):
    out = torch.zeros(32, dtype=torch.int32)
    meet_kernel[(3,)](out, step, lanes, READ=READ, BARRIER=BARRIER)


def test_two_programs_that_write_the_same_number():
    meet()
    with pytest.raises(MemoryFault, match=r"\(0, 0, 0\) writes and program \(1, 0, 0\) writes"):
        meet(step=3)


def test_two_lanes_that_write_the_same_number():
    with pytest.raises(MemoryFault, match=r"\(0, 0, 0\) writes and program \(0, 0, 0\) writes"):
        meet(lanes=2)


def test_a_program_that_reads_what_it_wrote_needs_a_barrier():
    with pytest.raises(MemoryFault, match=r"\(0, 0, 0\) writes and program \(0, 0, 0\) reads"):
        meet(READ=True)
    meet(READ=True, BARRIER=True)


@triton.jit
def shift_kernel(x_ptr):
    own = tl.program_id(0)
    tl.store(x_ptr + own, tl.load(x_ptr + own + 1))


def test_a_program_that_reads_what_another_writes():
    with pytest.raises(MemoryFault, match=r"\(0, 0, 0\) reads and program \(1, 0, 0\) writes"):
        shift_kernel[(3,)](torch.rand(4))


@triton.jit
def last_kernel(done_ptr, part_ptr, sum_ptr, ORDER: tl.constexpr):
    """The last program adds up what all have written."""
    own = tl.program_id(0)
    if ORDER != "too late":
        tl.store(part_ptr + own, own)
    if ORDER != "no barrier":
        tl.debug_barrier()
    if ORDER == "no counter":
        last = own == 2
    else:
        last = tl.atomic_add(done_ptr, 1) == 2
    if ORDER == "too late":
        tl.store(part_ptr + own, own)
        tl.debug_barrier()
    if last:
        lane = tl.arange(0, 4)
        tl.store(sum_ptr, tl.sum(tl.load(part_ptr + lane, lane < 3, 0), 0))


def add_up(order):
    done, total = torch.zeros(2, 1, dtype=torch.int32)
    last_kernel[(3,)](done, torch.zeros(3, dtype=torch.int32), total, ORDER=order)
    return int(total)


def test_a_counter_hands_on_what_was_written_before_it():
    assert add_up("right") == 3


@pytest.mark.parametrize("order", ["too late", "no barrier", "no counter"])
def test_a_counter_hands_on_nothing_else(order):
    with pytest.raises(MemoryFault, match="writes and program .* reads the same number of part"):
        add_up(order)


def test_every_kernel_of_the_package_is_watched(watched_kernels):
    modules = [
        importlib.import_module(f"{kernels.__name__}.{found.name}")
        for found in pkgutil.iter_modules(kernels.__path__)
    ]
    names = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    call_all(torch.float32, torch.float32, 16, 14, 300, True)
    assert set(watched_kernels) == names
    assert len(names) == 19
