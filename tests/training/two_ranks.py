"""A process of two that train together, with gloo on this machine: `python two_ranks.py RANK PORT OUT`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import gpubench as gb
from gpubench.core.errors import InputError


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 100)
    x = rng.normal(size=(300, 6)).astype(np.float32) + 2 * (label == "b")[:, None]
    return x.astype(np.float32), label, rng.choice(["d1", "d2"], 300)


def monitor(**changes: object) -> gb.Monitor:
    _, label, batch = inputs()
    tasks = ["clustering", "embedding", "batch_integration"]
    return gb.Monitor(label, batch, tasks=tasks, sample=120, engine="cpu", threads=1, n_neighbors=20, **changes)


def train(rank: int, fault: str) -> dict[str, object]:
    x, _, _ = inputs()
    logged: list[dict[str, float]] = []
    own = monitor(log=logged.append)
    cells = np.random.default_rng(1).permutation(300)
    cells = np.concatenate([cells, cells[:10]])  # as samplers do that give all processes as many cells
    cells = cells[:250] if rank == 0 else cells[250:]  # shares of different size
    if fault == "nothing on one":
        cells = np.arange(300) if rank == 0 else cells[:0]
    for part in np.array_split(cells, 4):
        batch = torch.from_numpy(x[part]).requires_grad_()
        if fault == "nan" and rank == 1:
            batch = batch * float("nan")
        own.update(batch * 1.0, index=torch.from_numpy(part))
    values = own.compute()
    try:
        own.update(x[:3])
        refused = ""
    except InputError as error:
        refused = str(error)
    return {"values": values, "logged": logged, "refused": refused, "n": own.trend["n_cells"].tolist()}


if __name__ == "__main__":
    rank, port, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found: dict[str, object] = {}
    for fault in ("", "nothing on one", "nan"):
        try:
            found[fault] = train(rank, fault)
        except InputError as error:
            found[fault] = str(error)
    out.write_text(json.dumps(found))
    dist.destroy_process_group()
