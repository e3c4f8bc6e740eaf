"""Classifiers on a cluster: each is trained by one worker, which also computes its predictions."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Timeline
from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda.device import Device
from gpubench.engines.cuda.workspace import Workspace
from gpubench.engines.dask import gpu_worker
from gpubench.engines.dask.cluster import RemoteArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpubench.core.types import F32, I32
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.worker import EngineSettings


class ClusterClassifier:
    """Classifier whose training and prediction run on a worker, in the background; see `Classifier`."""

    def __init__(self, cluster: Cluster, settings: EngineSettings, kind: str, params: Mapping[str, Any]) -> None:
        self._cluster = cluster
        self._arguments = settings, kind, dict(params)
        self._fitted: Any = None
        self._note: str | None = None

    def fit(self, x: Any, codes: I32, n_classes: int) -> ClusterClassifier:
        """Start the training and return at once; see `Classifier.fit`."""
        self._fitted = self._cluster.submit("fit", train, *self._arguments, x, codes, n_classes)
        self._note = None
        return self

    @property
    def note(self) -> str:
        """See `Classifier`."""
        if self._fitted is None:
            return ""
        if self._note is None:
            self._cluster.wait([self._fitted])
            self._note = str(self._cluster.fetch(self._cluster.submit("note", getattr, self._fitted, "note")))
        return self._note

    def predict_proba(self, x: Any) -> Any:
        """Start the prediction and return at once; NumPy fetches the values on use. See `Classifier.predict_proba`."""
        return self._predict("predict_proba", x)

    def _predict(self, method: str, x: Any) -> RemoteArray:
        return RemoteArray(self._cluster, self._cluster.submit(method, WorkerClassifier.call, self._fitted, method, x))


class LinearClusterClassifier(ClusterClassifier):
    """Classifier on a worker that also has logits."""

    def decision_function(self, x: Any) -> Any:
        """Return the logits (m, n_classes)."""
        return self._predict("decision_function", x)


class WorkerClassifier:
    """A trained classifier on a worker. Pickling it for another worker leaves out its engine, which is made there."""

    def __init__(self, settings: EngineSettings, kind: Any, params: dict[str, Any]) -> None:
        self._arguments = settings, kind, params
        self.engine: Any = settings.start() if settings.engine == "cpu" else gpu_worker.cuda_engine(settings)
        self.classifier: Any = self.engine.classifier(kind, **params)

    @property
    def note(self) -> str:
        """See `Classifier`."""
        return str(self.classifier.note)

    def __getstate__(self) -> Any:
        local = (ModuleType, Timeline, Engine, Device, Workspace)
        learnt = {name: value for name, value in vars(self.classifier).items() if not isinstance(value, local)}
        return self._arguments, learnt

    def __setstate__(self, state: Any) -> None:
        arguments, learnt = state
        WorkerClassifier.__init__(self, *arguments)
        vars(self.classifier).update(learnt)

    def call(self, method: str, x: Any, *args: Any) -> Any:
        """Call a method of the classifier with cells; return a result on the host. One thread uses a GPU at a time."""
        cells = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x
        function = getattr(self.classifier, method)
        if isinstance(self.engine, CpuEngine):
            return function(cells, *args)
        with gpu_worker.one_at_a_time:
            return gpu_worker.on_host(self.engine, function(gpu_worker.on_device(self.engine, cells), *args))


def train(
    settings: EngineSettings, kind: Any, params: dict[str, Any], x: F32, codes: I32, n_classes: int
) -> WorkerClassifier:
    """Train a classifier of this kind with an engine of this worker; runs as a task."""
    trained = WorkerClassifier(settings, kind, params)
    trained.call("fit", x, np.asarray(codes), n_classes)
    return trained
