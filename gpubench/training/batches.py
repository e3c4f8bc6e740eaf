"""Batches of data loaders: which cells they have, and their way to the device of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from gpubench.core.errors import InputError, close_matches
from gpubench.training.buffer import torch_if_loaded

Embed: TypeAlias = Callable[[Any, Any], Any]
"""Function (model, batch) -> (b, d) embedding of the cells of the batch."""

IndexOf: TypeAlias = Callable[[Any], Any]
"""Function batch -> (b,) which cells the batch has."""


def index_of(index: IndexOf | str | None, batch: Any) -> Any:
    """Return which cells a batch has; None if it has the next ones in order.

    Raises
    ------
    InputError
        The batch has no such key.
    """
    if index is None or not isinstance(index, str):
        return None if index is None else index(batch)
    if not hasattr(batch, "keys"):
        raise InputError(
            f"index={index!r} is a key, but batches are of type {type(batch).__name__}; give a function of a batch",
            argument="index",
        )
    if index not in batch:
        raise InputError(f"index={index!r} is not in the batches{close_matches(index, batch.keys())}", argument="index")
    return batch[index]


def require_order(index: IndexOf | str | None, loader: Any) -> None:
    """Raise InputError for a data loader that draws cells at random, if no index says which cells a batch has."""
    torch: Any = torch_if_loaded()
    if index is not None or torch is None:
        return
    # a loader that was made with a batch sampler has a sampler as well, which it does not use
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    data = torch.utils.data
    if isinstance(sampler, data.RandomSampler | data.WeightedRandomSampler | data.SubsetRandomSampler):
        raise InputError(
            "index is missing: the data loader draws cells at random; give `index`, or a loader with shuffle=False",
            argument="index",
        )


def on_device_of(model: Any, batch: Any) -> Any:
    """Return a batch whose tensors, in mappings, lists and tuples too, are on the device of a model."""
    device = next((parameter.device for parameter in model.parameters()), None)
    return batch if device is None else _moved(batch, device)


def _moved(batch: Any, device: Any) -> Any:
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [_moved(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
