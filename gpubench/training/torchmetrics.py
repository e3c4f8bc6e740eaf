"""A metric of torchmetrics that scores an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.training.buffer import PickedRows

if TYPE_CHECKING:
    from gpubench.training.monitor import Monitor

try:
    import torch
    from torchmetrics import Metric as TorchMetric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise EngineUnavailable(
        'gpubench.training.torchmetrics needs torchmetrics; install it with: pip install "gpubench-sc[lightning]"'
    ) from error


class MonitorMetric(TorchMetric):
    """`gpubench.Monitor` as a `torchmetrics.Metric`, whose states torchmetrics synchronises between processes.

    `compute` returns a dict of tensors, one for each score; every process computes it.

    Parameters
    ----------
    monitor : the monitor, whose label and batch have a value for each cell
    **options : arguments of `torchmetrics.Metric`

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import gpubench as gb
    >>> metric = MonitorMetric(gb.Monitor(label=np.repeat(["B", "T"], 50), engine="cpu"))
    >>> metric.update(torch.arange(100.0)[:, None])
    >>> sorted(metric.compute())
    ['embedding/silhouette_score']
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    positions: list[torch.Tensor]
    rows: list[torch.Tensor]

    def __init__(self, monitor: Monitor, **options: Any) -> None:
        super().__init__(**options)
        self.monitor = monitor
        self.add_state("positions", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, embedding: Any, index: Any = None) -> None:
        """Take a batch, as `Monitor.update`."""
        picked = self.monitor.pick(embedding, index)
        rows = torch.as_tensor(picked.rows, device=self.device)
        self.positions.append(torch.as_tensor(picked.positions, device=self.device))
        self.rows.append(rows)

    def forward(self, embedding: Any, index: Any = None) -> Any:
        """Take a batch and score it alone; `index` is needed, since that begins a pass over the cells."""
        if index is None:
            raise InputError(
                "index is missing: a call of the metric scores each batch alone; say which cells it has, or call"
                " update() for each batch and compute() at the end",
                argument="index",
            )
        return super().forward(embedding, index)

    def compute(self) -> dict[str, torch.Tensor]:
        """Score the collected cells, as `Monitor.compute`."""
        rows = dim_zero_cat(self.rows)
        picked = PickedRows(np.asarray(dim_zero_cat(self.positions).cpu()), rows if rows.is_cuda else rows.numpy())
        values = self.monitor.compute_from([picked])
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}

    def reset(self) -> None:
        """Forget the collected cells."""
        super().reset()
        self.monitor.reset()
