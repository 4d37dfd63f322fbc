"""``tritonpool info``: versions, devices, and which backend each device would get."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess

import torch

from tritonpool.backend import BACKENDS, choose_backend, why_not_triton

__all__ = ["add_args", "collect", "run"]

PACKAGES = ("tritonpool", "torch", "triton", "chemprop", "rdkit", "lightning")


def add_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of ``info`` to its parser."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print what `collect` finds."""
    found = collect()
    print(json.dumps(found, indent=2) if args.json else _as_text(found))


def collect() -> dict:
    """Look up versions, devices and backends.

    Returns
    -------
    dict
        ``versions`` (name to version or None), ``variable`` (the value of ``TRITONPOOL_BACKEND``
        or None), and ``devices``: for each its ``name``, ``backend`` (None if the one asked for
        cannot run there) and ``reasons``, a list of sentences.
    """
    versions = {"python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    versions["torch"] = str(torch.__version__)  # which names the build, too
    versions |= {"cuda": torch.version.cuda, "hip": torch.version.hip, "driver": _driver()}
    return {
        "versions": versions,
        "variable": os.environ.get("TRITONPOOL_BACKEND") or None,
        "devices": [_device("cpu"), *map(_device, _gpus())],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Version of the NVIDIA driver, or None without one."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().split("\n")[0] or None


def _gpus() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _device(device: str) -> dict:
    """What one device is, which backend it gets, and why not the other."""
    found: dict = {"device": device, **_hardware(device)}
    reasons = []
    try:
        found["backend"] = choose_backend(device)
    except (ValueError, RuntimeError) as error:
        found["backend"] = None
        reasons.append(str(error))
    variable = os.environ.get("TRITONPOOL_BACKEND") or "auto"
    if found["backend"] is not None:
        obstacle = why_not_triton(device)
        if found["backend"] == "triton":
            why = "TRITONPOOL_BACKEND asks for it" if variable == "triton" else "it is the fastest"
            reasons.append(f"triton because {why} and the device can run it")
        elif variable in BACKENDS and variable != "auto":
            reasons.append(f"{found['backend']} because TRITONPOOL_BACKEND asks for it")
        if obstacle is not None:
            reasons.append(f"not triton because {obstacle}")
        elif found["backend"] != "triton" and variable == "auto":
            reasons.append("not triton because its interpreter is never chosen unasked")
    found["reasons"] = reasons
    return found


def _hardware(device: str) -> dict:
    if device == "cpu":
        name = platform.processor() or platform.machine()
        return {"name": name, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
    }


def _as_text(found: dict) -> str:
    lines = ["versions"]
    lines += [f"  {name:<12}{version or '-'}" for name, version in found["versions"].items()]
    lines += ["", f"TRITONPOOL_BACKEND is {found['variable'] or 'not set, which means auto'}", ""]
    lines += ["devices"]
    for device in found["devices"]:
        parts = [device["name"]]
        parts += [f"{device['threads']} threads"] if "threads" in device else []
        parts += [f"capability {device['capability']}"] if "capability" in device else []
        parts += [f"{device['memory_gib']} GiB"] if "memory_gib" in device else []
        what = ", ".join(parts)
        lines.append(f"  {device['device']:<8}{what}")
        lines.append(f"  {'':<8}backend: {device['backend'] or 'none, every call would fail'}")
        lines += [f"  {'':<8}  {reason}" for reason in device["reasons"]]
    return "\n".join(lines)
