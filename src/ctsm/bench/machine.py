"""The machine a benchmark runs on: its description, its matrix rate and the memory used."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

SECONDS = 0.3
"""How long each matrix product is repeated; the fastest repetition counts."""

MIB = 1 << 20


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Return what a reader needs to judge timings; the load average shows whether anything else was running."""
    accelerator = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": accelerator or device,
        "load_average": round(os.getloadavg()[0], 2),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def multiply_add_rate(dtype: torch.dtype, rows: int, inputs: int, outputs: int, device: str = "cpu") -> float:
    """Return the multiply-adds per second of [rows, inputs] x [inputs, outputs], by its fastest repetition."""
    left = torch.randn(rows, inputs, device=device).to(dtype)
    right = torch.randn(outputs, inputs, device=device).to(dtype)
    best = float("inf")
    finish = time.perf_counter() + SECONDS
    repetitions = 0
    while repetitions < 3 or time.perf_counter() < finish:
        synchronise(device)
        started = time.perf_counter()
        _ = left @ right.T
        synchronise(device)
        best = min(best, time.perf_counter() - started)
        repetitions += 1
    return rows * inputs * outputs / best


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory() -> float:
    """Return the largest resident size of this process so far, in MiB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def _processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
