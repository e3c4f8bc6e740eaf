"""The neighbourhoods behind a score, and what it says of the search for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.core.scores import Score
from gpubench.core.types import Knn
from gpubench.engines import get_engine
from gpubench.engines.embedding import on_engine

if TYPE_CHECKING:
    from gpubench.engines.base import Engine


def search_params(knn: Knn) -> dict[str, Any]:
    """Nothing where the neighbours are exact; else the method and the recall that was measured."""
    return {} if knn.exact else {"knn": knn.method, "recall": knn.recall}


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """Cells with their nearest others.

    Attributes
    ----------
    engine : where `knn` is
    knn : without the cell itself
    note : what was cut
    """

    engine: Engine
    knn: Knn
    note: str = ""

    @property
    def n(self) -> int:
        """The number of cells."""
        return len(self.knn.indices)

    @property
    def n_neighbors(self) -> int:
        """Cells in a neighbourhood, the cell itself counted."""
        return self.knn.k + 1

    def score(self, value: float, *, n: int | None = None, note: str = "", **params: Any) -> Score:
        """Make the score of a number that was counted in these neighbourhoods."""
        return Score(
            value,
            n=self.n if n is None else n,
            note="; ".join(filter(None, (self.note, note))),
            params={"n_neighbors": self.n_neighbors, **params, **search_params(self.knn)},
            approximate=not self.knn.exact,
        )


def neighborhoods(X: Any, n_neighbors: int | None, default: int, engine: Engine | str | None) -> Neighborhoods:
    """Find the neighbourhoods of `n_neighbors` cells, the cell itself counted, or take them from a `Knn`.

    Parameters
    ----------
    X : matrix, `Embedding`, or a `Knn` on `engine`
    n_neighbors : None: `default`, or all of a `Knn`; cut to the number of cells

    Raises
    ------
    InputError
        `n_neighbors` below 2, more than a `Knn` holds, or a matrix that cannot be scored.
    """
    if n_neighbors is not None and n_neighbors < 2:
        raise InputError(f"n_neighbors={n_neighbors}: a neighbourhood has at least 2 cells, the cell itself counted")
    if isinstance(X, Knn):
        held = X.k + 1
        if n_neighbors is not None and n_neighbors > held:
            raise InputError(f"n_neighbors={n_neighbors}: X holds {held}, the cell itself counted; use no more")
        if engine is None or isinstance(engine, str):
            engine = get_engine(engine or "auto")
        return Neighborhoods(engine, X.head((n_neighbors or held) - 1))
    embedding = on_engine(X, engine)
    wanted = n_neighbors or default
    used = min(wanted, embedding.n)
    if used < 2:
        raise InputError("X has 1 cell, which has no neighbours; at least two are needed")
    note = "" if used == wanted else f"n_neighbors cut from {wanted} to {used}, the number of cells"
    return Neighborhoods(embedding.engine, embedding.knn(used - 1), note)
