"""Looking for BLAS while other threads import libraries, as `CpuEngine.preload` does, must not deadlock."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import importlib, threading
from threadpoolctl import ThreadpoolController
names = ("scipy.sparse.linalg", "scipy.optimize")
importing = threading.Thread(target=lambda: [importlib.import_module(name) for name in names], daemon=True)
importing.start()
while importing.is_alive():
    ThreadpoolController()
print("both are done")
"""


@pytest.mark.slow
def test_looking_for_blas_during_imports_does_not_deadlock() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "both are done\n"
