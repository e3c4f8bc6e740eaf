"""Exchange between the processes of torch.distributed: rows of an embedding to all, scores from the first process."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.data.matrices import comes_from, to_host
from gpubench.training.buffer import PickedRows, torch_if_loaded


def distributed() -> Any:
    """Return the module torch.distributed if several processes train together; else None."""
    torch: Any = torch_if_loaded()
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed if torch.distributed.get_world_size() > 1 else None


def is_first(dist: Any) -> bool:
    """Whether this process is the one that scores: rank 0, or the only one."""
    return dist is None or dist.get_rank() == 0


def gather(dist: Any, own: PickedRows) -> list[PickedRows]:
    """Return the rows of all processes, in the order of their ranks.

    All processes call this function together. Rows on a GPU stay there if NCCL exchanges them.
    """
    torch: Any = torch_if_loaded()
    shapes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, tuple(map(int, own.rows.shape)))
    dims = sorted({d for m, d in shapes if m})
    if len(dims) > 1:
        raise InputError(f"embedding: the processes have {dims} dimensions; give one embedding", argument="embedding")
    if not dims:
        return [own]
    longest, d, device = max(m for m, _ in shapes), dims[0], _device(dist, own)
    mine = torch.zeros((longest, d), dtype=torch.float32, device=device)
    positions = torch.zeros(longest, dtype=torch.int64, device=device)
    m = len(own.positions)
    if m:
        is_tensor = comes_from(own.rows, "torch")
        mine[:m] = own.rows.to(device) if is_tensor else torch.as_tensor(to_host(own.rows, "embedding"), device=device)
        positions[:m] = torch.as_tensor(own.positions, device=device)
    all_rows = [torch.empty_like(mine) for _ in shapes]
    all_positions = [torch.empty_like(positions) for _ in shapes]
    dist.all_gather(all_rows, mine)
    dist.all_gather(all_positions, positions)
    return [
        PickedRows(np.asarray(where[:n].cpu()), rows[:n] if rows.device.type != "cpu" else rows[:n].numpy())
        for (n, _), where, rows in zip(shapes, all_positions, all_rows, strict=True)
        if n
    ]


def _device(dist: Any, own: PickedRows) -> Any:
    """Return the device whose memory the backend exchanges."""
    torch: Any = torch_if_loaded()
    backend = str(dist.get_backend())
    on_gpu = comes_from(own.rows, "torch") and own.rows.device.type == "cuda"
    if "nccl" in backend and (on_gpu or "gloo" not in backend):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def broadcast(dist: Any, value: Any) -> Any:
    """Return the value of the first process in all processes; an exception that it has is raised in all of them."""
    if dist is not None:
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        value = shared[0]
    if isinstance(value, BaseException):
        raise value
    return value
