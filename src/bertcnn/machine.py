"""What the machine has to compute with, told without loading what computes."""

import os
from functools import cache
from pathlib import Path
from shutil import which


def has_vnni() -> bool:
    """Return whether the processor is known to have 8-bit products of its own, which are exact."""
    return "vnni" in _processor()


def has_bf16() -> bool:
    """Return whether the processor is known to have products of bfloat16 numbers."""
    return "bf16" in _processor()


def is_amd_with_avx512() -> bool:
    """Return whether the processor is known to be AMD's, with products of 512 bits."""
    said = _processor()
    return "AuthenticAMD" in said and "avx512f" in said


@cache
def _processor() -> str:
    """Return what the system says of it; nothing where that is not Linux."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""


def threads() -> int:
    """Return how many threads to compute with: ``OMP_NUM_THREADS``, which torch heeds too, else the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def has_gpu() -> bool:
    """Return whether an NVIDIA GPU seems to be here, without loading torch to ask it."""
    return Path("/proc/driver/nvidia").exists() or which("nvidia-smi") is not None  # Windows and WSL have the latter
