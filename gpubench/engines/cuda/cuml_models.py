"""Classifiers and silhouettes of cuML, for users who name them by the option `backend`, to compare with gpubench's own.

cuML's logistic regression and silhouettes count rows times columns in 32 bits, so larger inputs are refused. Random
forests are cuML's in any case, see `classifiers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import Distance
    from gpubench.engines.cuda.device import Device

MAX_INDEX = 2**31 - 1
"""Largest index of a value in arrays whose sizes cuML passes as `int`."""

MAX_CHUNK = 40_000
"""Most rows and columns of distances at a time; cuML's default."""


class CumlClassifier(ABC):
    """Classifier of cuML; see `Classifier`. Its classes are those that occur among the training cells.

    Attributes
    ----------
    note : message that names the package
    """

    about: ClassVar[str]

    def __init__(self, device: Device) -> None:
        self._device = device
        self.note = f"{self.about} of cuML"

    def fit(self, x: Array, codes: NDArray[np.int32], n_classes: int) -> Self:
        """Train the classifier; see `Classifier.fit`.

        Raises
        ------
        InputError
            cuML cannot be trained on so many cells, or on cells of one class.
        """
        self._present, y = np.unique(codes, return_inverse=True)
        self._n_classes = n_classes
        if len(self._present) < 2:
            raise InputError(f"backend='cuml': {self.about} needs training cells of two classes", argument="backend")
        self._check(len(x), x.shape[1])
        with self._device.library():
            self._train(self._device.on_device(x), self._device.xp.asarray(y.astype(np.int32)))
        return self

    def predict_proba(self, x: Array) -> Array:
        """Return the class probabilities; see `Classifier.predict_proba`."""
        xp = self._device.xp
        proba = xp.zeros((len(x), self._n_classes))
        with self._device.library():
            proba[:, xp.asarray(self._present)] = self._probabilities(self._device.on_device(x))
        return proba

    @abstractmethod
    def _check(self, n: int, d: int) -> None:
        """Raise InputError if cuML cannot be trained on n cells of d dimensions."""

    @abstractmethod
    def _train(self, x: Array, y: Array) -> None: ...

    @abstractmethod
    def _probabilities(self, x: Array) -> Array: ...


class CumlLogisticRegression(CumlClassifier):
    """Multinomial logistic regression by cuML's quasi-Newton solver, with an L2 penalty."""

    about = "logistic regression"

    def __init__(self, device: Device, *, max_iter: int = 100, C: float = 1.0) -> None:
        super().__init__(device)
        self._max_iter, self._c = max_iter, C

    def _check(self, n: int, d: int) -> None:
        check_index(n, max(d, len(self._present)))

    def _train(self, x: Array, y: Array) -> None:
        from cuml.linear_model import LogisticRegression

        self._model = LogisticRegression(C=self._c, max_iter=self._max_iter, output_type="cupy")
        self._model.fit(x, y)

    def _probabilities(self, x: Array) -> Array:
        return self._model.predict_proba(x)


class CumlNeighbors(CumlClassifier):
    """k-nearest-neighbours classifier of cuML, which compares all cells in float32."""

    about = "nearest neighbours"

    def __init__(self, device: Device, *, n_neighbors: int = 5) -> None:
        super().__init__(device)
        self._n_neighbors = n_neighbors

    def _check(self, n: int, d: int) -> None:  # noqa: ARG002 - cuML counts cells in 64 bits
        if n < self._n_neighbors:
            raise InputError(f"n_neighbors={self._n_neighbors} neighbours cannot be found among {n} training cells")

    def _train(self, x: Array, y: Array) -> None:
        from cuml.neighbors import KNeighborsClassifier

        self._model = KNeighborsClassifier(n_neighbors=self._n_neighbors, output_type="cupy")
        self._model.fit(x, y)

    def _probabilities(self, x: Array) -> Array:
        return self._model.predict_proba(x)


def silhouette_widths(
    device: Device, x: Array, clusters: NDArray[np.int32], metric: Distance, room_bytes: int
) -> NDArray[np.float64]:
    """Return cuML's silhouette widths (n,), from distances in float32; 0 for the only cell of a cluster.

    Raises
    ------
    InputError
        There are more values than cuML can count.
    """
    counts = np.bincount(clusters)
    check_index(len(x), max(x.shape[1], int((counts > 0).sum())))
    chunk = max(1, min(len(x), MAX_CHUNK, int(np.sqrt(room_bytes / 16))))
    with device.library():
        from cuml.metrics.cluster import silhouette_samples

        found = silhouette_samples(device.on_device(x), device.xp.asarray(clusters), metric=metric, chunksize=chunk)
        widths: NDArray[np.float64] = device.xp.asnumpy(found).astype(np.float64)
    widths[counts[clusters] == 1] = 0
    return widths


def check_index(n: int, width: int) -> None:
    """Check that an array (n, width) has no more values than cuML can count in 32 bits.

    Raises
    ------
    InputError
        The array has more values.
    """
    if n * width > MAX_INDEX:
        raise InputError(
            f"backend='cuml' cannot count {n:,} x {width:,} values in 32 bits; use fewer cells, or leave out backend",
            argument="backend",
        )
