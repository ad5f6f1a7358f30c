"""Read and limit what a process uses: resident memory, its peak, threads; and name the machine."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import threadpoolctl

from packbench import sandbox
from packbench.server import THREAD_VARIABLES


def _status(field: str) -> int | None:
    """Return a memory field of /proc/self/status in bytes; None where the system has no such file."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def resident_bytes() -> int:
    """Return the resident memory of this process, after giving freed memory back to the system."""
    trim()
    return int(psutil.Process().memory_info().rss)


def trim() -> None:
    """Hand freed memory back, so that what is resident is in use."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library: freed memory may still count as resident


def reset_peak() -> None:
    """Let the peak start anew from what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak then covers the whole life of the worker


def peak_bytes() -> int | None:
    """Return the peak of resident memory since the last reset; None where the system does not tell."""
    return _status("VmHWM")


def limit_memory(extra_bytes: int) -> None:
    """Let this process allocate at most so much more; a larger request then fails as a MemoryError."""
    import resource

    used = _status("VmData")
    if used is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (used + extra_bytes, used + extra_bytes))


@functools.cache
def thread_pools() -> threadpoolctl.ThreadpoolController:
    """Return what controls the thread pools of the libraries loaded by now; looking for them takes a while."""
    return threadpoolctl.ThreadpoolController()


def limit_threads(threads: int) -> None:
    """Cap every thread pool of this process, those already started included."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    thread_pools().limit(limits=threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(threads)
    if "numba" in sys.modules:
        # Takes effect when a parallel kernel first starts its pool, which no worker has done yet.
        sys.modules["numba"].config.NUMBA_NUM_THREADS = threads
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def machine() -> dict[str, Any]:
    """Describe this machine; `id` is a hash of what timings depend on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    facts: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "simd": _simd(),
    }
    digest = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()
    # What confines a worker says how far to trust a row, and changes no figure of it.
    return facts | {"id": digest[:12], "landlock": sandbox.version()}


def _simd() -> str:
    import faiss

    options = str(faiss.get_compile_options()).split()
    level = os.environ.get("FAISS_SIMD_LEVEL")
    return f"faiss {' '.join(options)}" + (f" limited to {level}" if level else "")


@functools.cache
def commit() -> str | None:
    """Return the git revision of the working directory, by which histories are told, -dirty where files changed since.

    None where there is none.
    """
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("packbench", "numpy", "scipy", "scikit-learn", "faiss-cpu", "numba", "pytrec-eval-terrier"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
