"""Time one import and one call in a fresh process.

    python benchmarks/child.py ours|peers|scripts WORKLOAD DATA [--again]

DATA is a folder of synthetic cells, or a file that the workload reads itself. The last line printed is JSON: import_s,
first_call_s with everything that is compiled on the way, second_call_s with --again, and the value, which says that
both sides computed the same.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(side: str, workload: str, data: str, *flags: str) -> None:
    """Import, call, and print the times."""
    begin = time.perf_counter()
    call = getattr(importlib.import_module(side), workload)()
    times = {"import_s": time.perf_counter() - begin}
    cells = _load(Path(data))
    names = ["first_call_s", *(["second_call_s"] if "--again" in flags else [])]
    value = float("nan")
    for name in names:
        begin = time.perf_counter()
        value = float(call(cells))
        times[name] = time.perf_counter() - begin
    print(json.dumps({**times, "value": value}))


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        return {"file": path}
    import numpy as np

    return {file.stem: np.load(file) for file in path.glob("*.npy")}


if __name__ == "__main__":
    main(*sys.argv[1:])
