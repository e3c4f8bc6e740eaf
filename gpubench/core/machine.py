"""Facts about the machine and what is installed, found without importing any of it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


KILLED = -9
"""The return code of a process that SIGKILL ended, which only the system or a person sends."""


def why_ended(code: int, complaints: str) -> str:
    """Say why a process has ended, in a line that goes on after "the process ".

    Parameters
    ----------
    code : its return code; of a signal the negative number
    complaints : what it wrote on standard error, of which the last line tells
    """
    if code == KILLED:
        return "was killed, as a system does that is out of memory"
    last = (complaints.strip().splitlines() or ["it said nothing"])[-1]
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}: {last}"
    return f"ended with exit code {code}: {last}"


def lacked_memory(code: int, complaints: str) -> bool:
    """Whether a process has ended for want of memory: killed by the system, or by Python's own word."""
    return code == KILLED or (complaints.strip().splitlines() or [""])[-1].startswith("MemoryError")


PACKAGES = (
    "numpy",
    "scipy",
    "llvmlite",
    "scikit-learn",
    "scikit-learn-intelex",
    "faiss-cpu",
    "igraph",
    "networkit",
    "threadpoolctl",
    "anndata",
    "h5py",
    "zarr",
    "pandas",
    "pyarrow",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cuml-cu12",
    "cuml-cu13",
    "pylibcugraph-cu12",
    "pylibcugraph-cu13",
)
"""Distributions that a number may depend on."""


def package_version(name: str) -> str | None:
    """Version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed."""
    found = ((name, package_version(name)) for name in PACKAGES)
    return {name: version for name, version in found if version is not None}


def cpu_model() -> str:
    """The processor in words."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return run_briefly("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def total_memory_bytes() -> int | None:
    """Memory of the machine, None where the system does not say."""
    if sys.platform == "win32":  # no sysconf there
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run_briefly(*command: str, timeout_s: float = 5.0) -> str | None:
    """Output of a short command; None where the program is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
