"""A callback for Lightning that scores an embedding of the validation cells in each epoch and logs the values."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.training.batches import Embed, IndexOf, index_of, on_device_of, require_order

if TYPE_CHECKING:
    from gpubench.training.monitor import Monitor

try:
    # the package of the program's Trainer, whose callbacks must be of the same package
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback
except ImportError as error:
    raise EngineUnavailable(
        'gpubench.training.lightning needs Lightning; install it with: pip install "gpubench-sc[lightning]"'
    ) from error


class MonitorCallback(Callback):
    """Score an embedding of the validation cells and log the values, by which early stopping and checkpoints can go.

    The embedding is collected from the validation batches of the Trainer, or from a data loader of its own, which the
    callback runs through at the end of a training epoch.

    Parameters
    ----------
    monitor : the monitor, whose label and batch have a value for each validation cell
    embed : function (module, batch) -> (b, d) embedding of the batch's cells, or the key under which `validation_step`
        returns it, in a dict
    index : function batch -> (b,) validation cells in the batch, or its key in a batch that is a dict. If None, the
        batches have the cells in order
    dataloader : batches to embed at the end of a training epoch. If None, those of the validation
    every_n_epochs : number of epochs from one scoring to the next
    prefix : text before each name that is logged

    Examples
    --------
    >>> trainer = Trainer(callbacks=[  # doctest: +SKIP
    ...     MonitorCallback(monitor, embed=lambda module, batch: module.encode(batch["x"])),
    ...     EarlyStopping("embedding/silhouette_score", mode="max"),
    ... ])
    """

    def __init__(
        self,
        monitor: Monitor,
        embed: Embed | str,
        *,
        index: IndexOf | str | None = None,
        dataloader: Any = None,
        every_n_epochs: int = 1,
        prefix: str = "",
    ) -> None:
        if every_n_epochs < 1:
            raise InputError(
                f"every_n_epochs={every_n_epochs} cannot be used; give at least 1", argument="every_n_epochs"
            )
        if isinstance(embed, str) and dataloader is not None:
            raise InputError(
                f"embed={embed!r} is returned by validation steps only; give a function of the module and a batch",
                argument="embed",
            )
        self.monitor = monitor
        self._embed, self._index, self._dataloader = embed, index, dataloader
        self._every_n_epochs, self._prefix = every_n_epochs, prefix

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a pass over the validation cells."""
        if self._listens(trainer):
            loaders = trainer.val_dataloaders
            require_order(self._index, loaders[0] if isinstance(loaders, list | tuple) else loaders)
            self.monitor.reset()

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the embedding of a validation batch, of the first data loader if there are several."""
        if self._listens(trainer) and dataloader_idx == 0:
            self._update(pl_module, batch, outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Score the validation cells and log the values."""
        if self._listens(trainer):
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run through the callback's own data loader, score its cells and log the values."""
        if self._dataloader is None or not self._is_due(trainer):
            return
        import torch

        require_order(self._index, self._dataloader)
        training = pl_module.training
        pl_module.eval()
        self.monitor.reset()
        with torch.no_grad():
            for batch in self._dataloader:
                self._update(pl_module, on_device_of(pl_module, batch), None)
        pl_module.train(training)
        self._log(trainer, pl_module)

    def _is_due(self, trainer: Any) -> bool:
        return (int(trainer.current_epoch) + 1) % self._every_n_epochs == 0

    def _listens(self, trainer: Any) -> bool:
        return self._dataloader is None and not trainer.sanity_checking and self._is_due(trainer)

    def _update(self, module: Any, batch: Any, outputs: Any) -> None:
        if not isinstance(self._embed, str):
            embedding = self._embed(module, batch)
        elif isinstance(outputs, dict) and self._embed in outputs:
            embedding = outputs[self._embed]
        else:
            raise InputError(
                f"embed={self._embed!r} is not returned by validation_step; return a dict with it, or give a function"
                " of the module and a batch",
                argument="embed",
            )
        self.monitor.update(embedding, index_of(self._index, batch))

    def _log(self, trainer: Any, module: Any) -> None:
        values = self.monitor.compute(step=int(trainer.current_epoch))
        module.log_dict({self._prefix + key: value for key, value in values.items()})
