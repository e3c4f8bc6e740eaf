"""Neighbourhoods of cells, and the scores computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Knn
from gpubench.engines.embedding import on_engine, start_engine

if TYPE_CHECKING:
    from gpubench.engines.base import Engine


def search_params(knn: Knn) -> dict[str, Any]:
    """Return the method and the measured recall of an approximate search as parameters of a score; empty if exact."""
    return {} if knn.exact else {"knn": knn.method, "recall": knn.recall}


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """The nearest neighbours of every cell, from which scores are computed."""

    engine: Engine
    knn: Knn  # on `engine`; a cell is not among its own neighbours
    note: str = ""  # says that `n_neighbors` was reduced, or is empty

    @property
    def n(self) -> int:
        """The number of cells."""
        return len(self.knn.indices)

    @property
    def n_neighbors(self) -> int:
        """The number of cells in a neighbourhood, the cell itself included."""
        return self.knn.k + 1

    def score(self, value: float, *, n: int | None = None, note: str = "", **params: Any) -> Score:
        """Return a `Score` of this value that records how the neighbours were found.

        `n` is the number of scored cells (by default all), `note` is added to the note of the neighbourhoods, and
        `params` are further parameters of the score.
        """
        return Score(
            value,
            n=self.n if n is None else n,
            note="; ".join(filter(None, (self.note, note))),
            params={"n_neighbors": self.n_neighbors, **params, **search_params(self.knn)},
            approximate=not self.knn.exact,
        )


def neighborhoods(X: Any, n_neighbors: int | None, default: int, engine: Engine | str | None) -> Neighborhoods:
    """Find the nearest neighbours of every cell.

    `n_neighbors` is the size of a neighbourhood, the cell itself included; if None, all neighbours of a `Knn`,
    otherwise `default`.

    It is reduced to the number of cells if that is smaller. `X` is a matrix, an `Embedding`, or a `Knn` on `engine`.
    """
    wanted = default if n_neighbors is None else n_neighbors
    if isinstance(X, Knn):
        held = X.k + 1
        neighborhood_size(wanted, held)
        if n_neighbors is not None and n_neighbors > held:
            raise InputError(f"n_neighbors={n_neighbors}: X holds {held}, the cell itself counted; use no more")
        return Neighborhoods(start_engine(engine), X.head((n_neighbors or held) - 1))
    embedding = on_engine(X, engine)
    used, note = neighborhood_size(wanted, embedding.n)
    if used < 2:
        raise InputError("X has 1 cell, which has no neighbours; at least two are needed")
    return Neighborhoods(embedding.engine, embedding.knn(used - 1), note)


def neighborhood_size(n_neighbors: int, n: int) -> tuple[int, str]:
    """Return the smaller of `n_neighbors` and the number of cells n, and a note if `n_neighbors` was reduced."""
    if n_neighbors < 2:
        raise InputError(f"n_neighbors={n_neighbors}: a neighbourhood has at least 2 cells, the cell itself counted")
    used = min(n_neighbors, n)
    return used, "" if used == n_neighbors else f"n_neighbors cut from {n_neighbors} to {used}, the number of cells"
