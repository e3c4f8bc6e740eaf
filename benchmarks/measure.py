"""Run a command in a fresh process and read its time, memory and output."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpubench.core import machine, memory
from gpubench.core.machine import usable_cores

HERE = Path(__file__).resolve().parent

LOOK_S = 0.1


def run(command: Sequence[str], numba_cache: Path) -> dict[str, Any]:
    """Run a command to its end.

    Parameters
    ----------
    command : the interpreter and its arguments
    numba_cache : the folder in which numba, which the peers use, looks for compiled code and leaves it

    Returns
    -------
    process_s, processor_s and peak_bytes (resident) of the process, and the times that a child (child.py) printed of
    itself.

    Raises
    ------
    SystemExit
        The command failed; the message ends with what it wrote.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(numba_cache)}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait it returns the memory of this child
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, complained = _read(output), _read(errors)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{complained[-2000:]}{printed[-500:]}")
    figures = json.loads(printed.splitlines()[-1]) if str(HERE / "child.py") in command else {}
    seconds -= figures.get("second_call_s", 0.0)  # time of a process that calls once
    processor_s = usage.ru_utime + usage.ru_stime
    return {"process_s": seconds, "processor_s": processor_s, **figures, "peak_bytes": usage.ru_maxrss * 1024}


def _read(file: Any) -> str:
    file.seek(0)
    return str(file.read())


def watch(process: subprocess.Popen[bytes]) -> int:
    """Return the peak memory in bytes of a process together with its descendants.

    They are looked at ten times a second. Pages of files, which the system keeps for everybody, do not count.

    Raises
    ------
    CalledProcessError
        It failed.
    """
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_private_bytes, _descendants(process.pid))))
        time.sleep(LOOK_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return peak


def _descendants(pid: int) -> list[int]:
    found, open_ = [], [pid]
    while open_:
        found.append(open_.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                open_ += map(int, task.read_text().split())
            except OSError:  # the process has ended
                continue
    return found


def _private_bytes(pid: int) -> int:
    """Return the resident memory without file pages."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def machine_facts() -> dict[str, Any]:
    """Describe the machine."""
    return {"cpu": machine.cpu_model(), "cores": usable_cores(), "memory_bytes": memory.total_memory_bytes()}


def versions(python: str, packages: Sequence[str]) -> Mapping[str, str]:
    """Return the versions of the packages installed for an interpreter."""
    code = (
        "import json, sys; from importlib import metadata\n"
        "have = {d.metadata['Name'].lower(): d.version for d in metadata.distributions()}\n"
        "print(json.dumps({'python': sys.version.split()[0], **{p: have[p] for p in sys.argv[1:] if p in have}}))"
    )
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
