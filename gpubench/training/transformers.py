"""A callback for the Trainer of Hugging Face that scores an embedding of the evaluation cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpubench.core.errors import EngineUnavailable
from gpubench.training.batches import Embed, IndexOf, index_of, on_device_of, require_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpubench.training.monitor import Monitor

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise EngineUnavailable(
        'gpubench.training.transformers needs transformers; install it with: pip install "gpubench-sc[lightning]"'
    ) from error


class MonitorTrainerCallback(TrainerCallback):
    """Score an embedding of the evaluation cells after each evaluation of a `transformers.Trainer`.

    The values are added to the metrics of the evaluation with the prefix "eval_" and to `state.log_history`, so that
    `metric_for_best_model="embedding/silhouette_score"` and `EarlyStoppingCallback` go by them; it must come before
    that callback in the list.

    Parameters
    ----------
    monitor : the monitor, whose label and batch have a value for each evaluation cell
    embed : function (model, batch) -> (b, d) embedding of the batch's cells
    index : function batch -> (b,) evaluation cells in the batch, or its key in a batch. If None, the batches have the
        cells in order
    dataloader : batches to embed; if None, those of the evaluation
    log : function that takes the values, such as `trainer.log`, which passes them to the loggers; it may be set later,
        as attribute `log`

    Examples
    --------
    >>> callback = MonitorTrainerCallback(monitor, lambda model, batch: model.encode(batch["x"]))  # doctest: +SKIP
    >>> trainer = Trainer(model, args, callbacks=[callback, EarlyStoppingCallback(3)], ...)  # doctest: +SKIP
    """

    def __init__(
        self,
        monitor: Monitor,
        embed: Embed,
        *,
        index: IndexOf | str | None = None,
        dataloader: Any = None,
        log: Callable[[dict[str, float]], Any] | None = None,
    ) -> None:
        self.monitor = monitor
        self.log = log
        self._embed, self._index, self._dataloader = embed, index, dataloader

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        eval_dataloader: Any = None,
        metrics: dict[str, float] | None = None,
        **rest: Any,
    ) -> None:
        """Embed and score the evaluation cells, and add the values to `metrics`."""
        import torch

        loader = eval_dataloader if self._dataloader is None else self._dataloader
        require_order(self._index, loader)
        self.monitor.reset()
        training = model.training
        model.eval()
        with torch.no_grad():
            for batch in loader:
                moved = on_device_of(model, batch)
                self.monitor.update(self._embed(model, moved), index_of(self._index, batch))
        model.train(training)
        values = {f"eval_{key}": value for key, value in self.monitor.compute(step=state.global_step).items()}
        if metrics is not None:
            metrics.update(values)
        if self.log is not None:
            self.log(values)
        else:
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})
