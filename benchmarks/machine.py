"""What a figure was measured on."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["commit", "machine"]


def _processor() -> str:
    """The CPU's model name, which ``platform`` does not know on Linux."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return done.stdout.split("\n")[0].strip() or None


def commit() -> str:
    """The commit, with a ``+`` if files differ from it."""
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def machine() -> dict[str, str | int | None]:
    """Chip, driver, versions and commit."""
    gpu = torch.cuda.is_available()
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {
        "chip": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "driver": _driver() if gpu else None,
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
        "commit": commit(),
    }
