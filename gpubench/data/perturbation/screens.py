"""Perturbation screens in memory, real or predicted: expression, the perturbation of each cell, names of genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.data.columns import encode_labels
from gpubench.data.expression import read_expression
from gpubench.data.read import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.data.expression import Expression


@dataclass(frozen=True)
class Screen:
    """Expression of perturbed cells and control cells, real or predicted.

    Attributes
    ----------
    name : name of the screen in messages, such as "the real data"
    x : (n, G) values as stored, a NumPy array or `scipy.sparse.csr_array`
    perturbations : perturbation of each cell; control cells have the label of the control
    genes : (G,) names of the genes, which may occur twice
    cells : (n,) names of the cells; None if they have none
    contexts : context of each cell, such as its cell line; None if there is only one context
    """

    name: str
    x: Any
    perturbations: Labels
    genes: tuple[str, ...]
    cells: tuple[str, ...] | None = None
    contexts: Labels | None = None

    @property
    def n(self) -> int:
        """Number of cells n."""
        return int(self.x.shape[0])

    @property
    def values(self) -> NDArray[Any]:
        """Stored values of `x`: all values of an array, the explicit entries of a sparse matrix."""
        stored: NDArray[Any] = self.x if isinstance(self.x, np.ndarray) else self.x.data
        return stored

    def n_cells_of(self, perturbation: str) -> int:
        """Return the number of cells with this perturbation."""
        names = self.perturbations.names
        return int((self.perturbations.codes == names.index(perturbation)).sum()) if perturbation in names else 0

    def select(self, rows: NDArray[Any]) -> Screen:
        """Return the cells at the given rows, in that order."""
        return replace(
            self,
            x=self.x[rows],
            perturbations=_selected(self.perturbations, rows),
            cells=None if self.cells is None else tuple(self.cells[row] for row in rows),
            contexts=None if self.contexts is None else _selected(self.contexts, rows),
        )

    def with_genes(self, genes: Sequence[str]) -> Screen:
        """Return all cells with the given genes only, in that order; every gene must exist."""
        if tuple(genes) == self.genes:
            return self
        place = {gene: column for column, gene in enumerate(self.genes)}
        return replace(self, x=self.x[:, [place[gene] for gene in genes]], genes=tuple(genes))

    def by_context(self) -> dict[str, Screen]:
        """Return context -> its cells; the only key is "" if there are no contexts."""
        if self.contexts is None:
            return {"": self}
        rows = (np.flatnonzero(self.contexts.codes == code) for code in range(self.contexts.n_classes))
        return {
            name: replace(self.select(own), contexts=None) for name, own in zip(self.contexts.names, rows, strict=True)
        }

    def digest(self) -> str:
        """Return a hash of all values, perturbations and genes, by which the screen is recognised."""
        digest = blake2b(repr((self.x.shape, self.perturbations.names, self.genes)).encode(), digest_size=16)
        parts = (self.x,) if isinstance(self.x, np.ndarray) else (self.x.data, self.x.indices, self.x.indptr)
        for part in (*parts, self.perturbations.codes):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
        return digest.hexdigest()


def _selected(labels: Labels, rows: NDArray[Any]) -> Labels:
    used, codes = np.unique(labels.codes[rows], return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(labels.names[code] for code in used), labels.key)


def read_screen(source: Any, name: str, *, condition: str, context: str | None = None) -> Screen:
    """Read a screen into memory.

    Parameters
    ----------
    source : path or URL of an h5ad file or a zarr store, or an AnnData; X is dense, CSR or CSC
    name : name of the screen in messages, such as "data" or "predictions"
    condition : column of obs with the perturbation of each cell
    context : column of obs with the context of each cell, such as its cell line; if None, there is one context

    Returns
    -------
    Screen
        Values as stored; perturbations are text even if the column has numbers.

    Raises
    ------
    InputError
        A file that cannot be read, no names of genes, a column that does not exist or has missing values.

    Examples
    --------
    >>> from gpubench.datasets import demo_path
    >>> screen = read_screen(demo_path(), "data", condition="cell_type")  # doctest: +SKIP
    """
    expression = read_expression(source, name)
    if expression.genes is None:
        raise InputError(f"{name} has no names of genes; give an h5ad file, a zarr store or an AnnData")
    n = expression.shape[0]
    given = {role: column for role, column in (("condition", condition), ("context", context)) if column is not None}
    stored = read(source, embeddings=[], columns=given).obs
    columns = {role: encode_labels(stored[role], f"{role}={key!r} of {name}", n) for role, key in given.items()}
    cells = None if expression.cells is None else tuple(expression.cells)
    return Screen(name, _read_all(expression), columns["condition"], tuple(expression.genes), cells,
                  columns.get("context"))  # fmt: skip


def _read_all(expression: Expression) -> Any:
    """Read the whole matrix, as a dense array or as CSR if it is stored sparse."""
    n, n_genes = expression.shape
    if isinstance(expression.rows, np.ndarray):
        return expression.rows
    dense: NDArray[Any] | None = None
    sparse = []
    for start, block in expression.blocks():
        if isinstance(block, np.ndarray):
            dense = np.empty((n, n_genes), block.dtype) if dense is None else dense
            dense[start : start + len(block)] = block
        else:
            sparse.append(block)
    if dense is not None:
        return dense
    from scipy.sparse import csr_array, vstack

    x = csr_array(sparse[0]) if len(sparse) == 1 else vstack([csr_array(b) for b in sparse], format="csr")
    if not x.has_canonical_format:
        x = x.copy()
        x.sum_duplicates()
    return x
