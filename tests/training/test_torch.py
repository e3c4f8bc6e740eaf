"""Tensors of torch, and several processes of torch.distributed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import gpubench

pytestmark = pytest.mark.usefixtures("needs_torch")

FOLDER = Path(__file__).parent


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the processes run."""
    monkeypatch.syspath_prepend(FOLDER)
    import two_ranks

    return two_ranks


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_give_what_arrays_give(ranks: ModuleType, dtype: str) -> None:
    import torch

    x = torch.from_numpy(ranks.inputs()[0]).to(getattr(torch, dtype)).requires_grad_()
    one, other = ranks.monitor(), ranks.monitor()
    for start in range(0, 300, 64):
        one.update(x[start : start + 64] * 1)
        other.update((x[start : start + 64] * 1).detach().float().numpy())
    assert one.compute() == other.compute()


@pytest.mark.slow
def test_two_processes_give_the_values_of_one(ranks: ModuleType, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    package = str(Path(gpubench.__file__).parents[1])  # the same as here, compiled or not
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": package}
    script = FOLDER / "two_ranks.py"
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(port), file], env=environment)
        for rank, file in enumerate(files)
    ]
    try:
        assert [process.wait(180) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads(file.read_text()) for file in files)
    alone = ranks.monitor()
    alone.update(ranks.inputs()[0])
    expected = alone.compute()
    for case in ("", "nothing on one"):
        assert first[case]["values"] == second[case]["values"] == expected
        assert first[case]["logged"] == [expected]
        assert second[case]["logged"] == [], "only the first process logs"
        assert first[case]["n"] == second[case]["n"] == [120]
        assert first[case]["refused"].startswith("index is missing: several processes give batches")
    assert first["nan"] == second["nan"], "an error ends both"
    assert "rows hold NaN or infinite values" in first["nan"]


@pytest.mark.slow
def test_rows_on_a_device_stay_there(ranks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no values: copying them to the host would fail."""
    import torch

    from gpubench.training.buffer import EmbeddingBuffer

    device_module = ModuleType("cupy")  # the engine's array module is not NumPy
    buffer = EmbeddingBuffer(np.arange(0, 100, 2), 100)
    x = torch.empty((100, 4), device="meta", dtype=torch.float16)
    for start in (0, 50):
        picked = buffer.pick(x[start : start + 50], None, device_module)
        assert picked.rows.device.type == "meta"
        buffer.add(picked, device_module)
    rows = buffer.collected(device_module).rows
    assert rows.device.type == "meta"
    assert rows.dtype == torch.float32
    assert tuple(rows.shape) == (50, 4)
    with pytest.raises(NotImplementedError, match="meta"):
        buffer.pick(x, np.arange(100), np)  # the CPU engine needs a copy
