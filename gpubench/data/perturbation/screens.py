"""Perturbation screens, real or predicted: expression, the perturbation of each cell, names of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.data.columns import encode_labels
from gpubench.data.expression import read_expression
from gpubench.data.matrices import read_rows
from gpubench.data.perturbation.stored_matrix import StoredMatrix, store_matrix, stored_bytes
from gpubench.data.read import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.data.expression import Expression

IN_MEMORY = 4
"""Bytes needed for each byte of a screen that is scored in memory."""

PER_PART = 8
"""Bytes needed for each byte of the control cells and of the part of a screen that is read at a time."""

MIN_PART_BYTES = 16 << 20
"""Least bytes of a part."""


@dataclass(frozen=True)
class Screen:
    """Expression of perturbed cells and control cells, real or predicted.

    Attributes
    ----------
    name : name of the screen in messages, such as "the real data"
    x : (n, G) values as stored, a NumPy array or `scipy.sparse.csr_array`; a `StoredMatrix` of screens that do not fit
        into memory
    perturbations : perturbation of each cell; control cells have the label of the control
    genes : (G,) names of the genes, which may occur twice
    cells : (n,) names of the cells; None if they have none
    contexts : context of each cell, such as its cell line; None if there is only one context
    embeddings : key of obsm -> (n, d) array in memory
    """

    name: str
    x: Any
    perturbations: Labels
    genes: tuple[str, ...]
    cells: tuple[str, ...] | None = None
    contexts: Labels | None = None
    embeddings: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of cells n."""
        return int(self.x.shape[0])

    def blocks(self) -> Iterator[tuple[NDArray[np.intp], Any]]:
        """Yield (rows, values of these cells) until all cells were there; all cells of a group are in one block.

        A group has the cells of one perturbation, or of the control, and of one context.
        """
        if isinstance(self.x, StoredMatrix):
            yield from self.x.blocks()
        else:
            yield np.arange(self.n), self.x

    def n_cells_of(self, perturbation: str) -> int:
        """Return the number of cells with this perturbation."""
        names = self.perturbations.names
        return int((self.perturbations.codes == names.index(perturbation)).sum()) if perturbation in names else 0

    def select(self, rows: NDArray[Any]) -> Screen:
        """Return the cells at the given rows, in that order; of a `StoredMatrix`, all cells of some contexts."""
        return replace(
            self,
            x=self.x.select(rows) if isinstance(self.x, StoredMatrix) else self.x[rows],
            perturbations=selected_labels(self.perturbations, rows),
            cells=None if self.cells is None else tuple(self.cells[row] for row in rows),
            contexts=None if self.contexts is None else selected_labels(self.contexts, rows),
            embeddings={key: values[rows] for key, values in self.embeddings.items()},
        )

    def with_genes(self, genes: Sequence[str]) -> Screen:
        """Return all cells with the given genes only, in that order; every gene must exist."""
        if tuple(genes) == self.genes:
            return self
        place = {gene: column for column, gene in enumerate(self.genes)}
        columns = [place[gene] for gene in genes]
        x = self.x.with_columns(columns) if isinstance(self.x, StoredMatrix) else self.x[:, columns]
        return replace(self, x=x, genes=tuple(genes))

    def by_context(self) -> dict[str, Screen]:
        """Return context -> its cells; the only key is "" if there are no contexts."""
        if self.contexts is None:
            return {"": self}
        rows = (np.flatnonzero(self.contexts.codes == code) for code in range(self.contexts.n_classes))
        return {
            name: replace(self.select(own), contexts=None) for name, own in zip(self.contexts.names, rows, strict=True)
        }

    @cached_property
    def digest(self) -> str:
        """Hash of all values, perturbations, contexts and genes, by which the screen is recognised.

        It is the same in memory and stored; cells of one group are hashed in their order, groups in that of their
        names.
        """
        groups, names = _groups(self.perturbations, self.contexts)
        found: dict[int, str] = {}
        for rows, x in self.blocks():
            codes = groups[rows]
            order = np.argsort(codes, kind="stable")
            present, first = np.unique(codes[order], return_index=True)
            for group, own in zip(present.tolist(), np.split(order, first[1:]), strict=True):
                found[group] = _digest_of_rows(x[own])
        by_group = np.argsort(groups, kind="stable")  # which cell has which row of an embedding, too
        embeddings = [(key, _digest_of_rows(values[by_group])) for key, values in sorted(self.embeddings.items())]
        facts = (*self.x.shape, self.genes, [(names[group], found[group]) for group in sorted(found)], embeddings)
        return blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _digest_of_rows(x: Any) -> str:
    if isinstance(x, np.ndarray):
        parts: tuple[NDArray[Any], ...] = (x,)
    else:
        parts = (x.data, x.indices.astype(np.int32, copy=False), np.diff(x.indptr).astype(np.int64))
    digest = blake2b(str(x.dtype).encode(), digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _groups(perturbations: Labels, contexts: Labels | None) -> tuple[NDArray[np.int32], list[tuple[str, str]]]:
    """Return the group of each cell, and (context, perturbation) of each group, sorted."""
    n = perturbations.n_classes
    own = np.zeros(len(perturbations.codes), np.int64) if contexts is None else contexts.codes.astype(np.int64)
    present, groups = np.unique(own * n + perturbations.codes, return_inverse=True)
    where = ("",) if contexts is None else contexts.names
    names = [(where[group // n], perturbations.names[group % n]) for group in present.tolist()]
    return groups.astype(np.int32), names


def selected_labels(labels: Labels, rows: NDArray[Any]) -> Labels:
    """Return the labels of these cells; names without cells are dropped."""
    used, codes = np.unique(labels.codes[rows], return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(labels.names[code] for code in used), labels.key)


def read_screen(
    source: Any,
    name: str,
    *,
    condition: str,
    context: str | None = None,
    control: str | None = None,
    memory_bytes: int | None = None,
    embeddings: Sequence[str] = (),
) -> Screen:
    """Read a screen into memory or, if it does not fit, copy it into a temporary folder to be read in parts.

    Parameters
    ----------
    source : path or URL of an h5ad file or a zarr store, or an AnnData; X is dense, CSR or CSC
    name : name of the screen in messages, such as "data" or "predictions"
    condition : column of obs with the perturbation of each cell
    context : column of obs with the context of each cell, such as its cell line; if None, there is one context
    control : label of the control, whose cells are read with those of every part
    memory_bytes : memory that this screen may take while it is scored; if None, it is read into memory
    embeddings : keys of obsm to read

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
    stored = read(source, embeddings=list(embeddings), columns=given)
    columns = {role: encode_labels(stored.obs[role], f"{role}={key!r} of {name}", n) for role, key in given.items()}
    cells = None if expression.cells is None else tuple(expression.cells)
    labels, contexts = columns["condition"], columns.get("context")
    if memory_bytes is None or IN_MEMORY * stored_bytes(expression) <= memory_bytes:
        x = _read_all(expression)
    else:
        x = _store(expression, labels, contexts, control, memory_bytes)
    read_embeddings = {key: read_rows(rows, 0, n) for key, rows in stored.embeddings.items()}
    return Screen(name, x, labels, tuple(expression.genes), cells, contexts, read_embeddings)


def _store(
    expression: Expression, labels: Labels, contexts: Labels | None, control: str | None, memory_bytes: int
) -> StoredMatrix:
    """Copy a matrix into a temporary folder, in parts of which the largest fits into memory with the control cells."""
    groups, names = _groups(labels, contexts)
    alone = [group for group, (_, label) in enumerate(names) if label == control]
    where = {context: number for number, context in enumerate(dict.fromkeys(context for context, _ in names))}
    apart = np.array([where[context] for context, _ in names], np.int32)
    n_control = np.bincount(groups, minlength=len(names))[alone].max(initial=0)
    control_bytes = int(stored_bytes(expression) * n_control / max(1, len(groups)))
    part_bytes = max(MIN_PART_BYTES, memory_bytes // PER_PART - control_bytes)
    return store_matrix(expression, groups, alone, apart, part_bytes)


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
