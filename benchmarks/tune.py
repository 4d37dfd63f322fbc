"""Times other tile sizes on a GPU: ``python -m benchmarks.tune``.

For each kernel the present tile and its neighbours (one size or the number of warps halved or
doubled) run forward and backward with losses on inputs that take turns; the kernel's own time is
read from torch's profiler. A tile that does not compile, or gives other results, leaves a row with
the reason. ``kernels/tiles.py`` holds the choice.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.clocks import kernel_times
from benchmarks.gpu import check, prepare
from benchmarks.inputs import Inputs, make_inputs
from benchmarks.machine import machine

__all__ = ["CASES", "KERNELS", "main", "neighbours", "time_tiles"]

CASES = {
    "64 molecules": {"number": 64},
    "4096 molecules": {"number": 4096},
    "1024 molecules, 64 bond features": {"number": 1024, "bond_features": 64},
    "1024 molecules, 300 bond features": {"number": 1024, "bond_features": 300},
}
KERNELS = (
    "coarsen_fwd", "coarsen_bwd_assignment", "coarsen_bwd_features", "pool", "lift", "node_grad",
    "losses_fwd", "losses_bwd",
)  # fmt: skip
COPIES = 4


def neighbours(tile) -> Iterator:
    """The tile, and those with one size or the number of warps halved or doubled."""
    yield tile
    for name, size in tile.blocks.items():
        for other in (size // 2, size * 2):
            if other:
                yield replace(tile, blocks={**tile.blocks, name: other})
    for warps in (tile.warps // 2, tile.warps * 2):
        if 1 <= warps <= 8:
            yield replace(tile, warps=warps)


def _label(tile) -> str:
    sizes = " ".join(f"{name} {size}" for name, size in tile.blocks.items())
    return f"{sizes}, {tile.warps} warps"


def _present(kernel: str, inputs: Inputs):
    """The tile that the launchers take for these inputs."""
    from tritonpool.kernels.launch import target_of
    from tritonpool.kernels.tiles import tile_for

    exact = kernel.startswith("losses")
    bonds = inputs.edge_attr.shape[1] if kernel.startswith("coarsen") else 0
    return tile_for(kernel, torch.float64 if exact else torch.float32, target_of(inputs.S), bonds)


def time_tiles(kernel: str, case: str, device: str = "cuda", time=kernel_times) -> list[dict]:
    """A row for each tile of one kernel: microseconds, or why there are none."""
    from tritonpool.kernels.tiles import trying

    inputs = make_inputs(**CASES[case])
    expected = check(inputs, device)
    copies = [inputs.to(device) for _ in range(COPIES)]
    rows = []
    for tile in neighbours(_present(kernel, copies[0])):
        row = {"kernel": kernel, "case": case, "tile": _label(tile), "us": None, "error": ""}
        with trying(kernel, tile):
            try:
                found = check(inputs, device)
                if any(found[name] > 2 * max(expected[name], 1e-6) for name in found):
                    raise RuntimeError("another result")
                times = time([prepare(made, True, True)[0] for made in copies])
                row["us"] = round(1e3 * times[f"{kernel}_kernel"][1], 2)
            except Exception as error:  # a compiler's complaint has no class of its own
                row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=KERNELS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=Path("tiles.csv"))
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("torch finds no GPU, and elsewhere tiles have no time", file=sys.stderr)
        return 2
    where = {k: v for k, v in machine().items() if k != "threads"}
    with args.output.open("w", newline="") as file:
        writer = None
        for kernel in args.kernels:
            for case in args.cases:
                for row in time_tiles(kernel, case):
                    writer = writer or csv.DictWriter(file, [*row, *where], lineterminator="\n")
                    if file.tell() == 0:
                        writer.writeheader()
                    writer.writerow({**row, **where})
                    print(f"{kernel:24} {case:35} {row['tile']:40} {row['us'] or row['error']}")
                    file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
