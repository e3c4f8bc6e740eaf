"""Writes a plain file of perturbed cells anew, in the layout that the perturbation task reads."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.data.formats.containers import open_zarr
from gpubench.data.perturbation.derive import Preparation, derive
from gpubench.data.perturbation.truth import CONDITION, CONTROL_MAP_KEY, DE_KEY, ControlMap
from gpubench.data.read_errors import reading

if TYPE_CHECKING:
    import h5py


def prepare_perturbation(
    source: Any,
    out: str | os.PathLike[str],
    *,
    condition: str,
    control: str,
    seed: int = 42,
    tie_correct: bool = True,
) -> Preparation:
    """Write a copy of a plain file with differential expression and a control map, in the layout of cz-benchmarks.

    Every condition is tested against all controls (Wilcoxon rank-sum test of log-normalised counts, Benjamini-Hochberg
    over the genes of a condition), and each treated cell is paired with a control of its own, drawn at random. X is
    held in memory twice, sparse in float32; the file is copied.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, or an AnnData, with counts, or log1p of normalised counts, in X
    out : the h5ad file to write, whole or not at all; it may be the source. The copy gets the column obs["condition"],
        uns["de_results_wilcoxon"] and uns["control_cells_map"].
    condition : column of obs with the condition
    control : its value for controls, such as "non-targeting"
    seed : decides the control map
    tie_correct : correct the test for equal values. scanpy does not unless told, and then finds fewer genes, for most
        values of single cells are zero.

    Raises
    ------
    InputError
        Unknown column or control, no other condition, negative or infinite values, names that occur twice or hold "/",
        another column "condition", or a file that cannot be read or written.
    """
    with _written_whole(Path(out)) as copy:
        prepared = derive(source, condition=condition, control=control, seed=seed, tie_correct=tie_correct)
        _require_storable(prepared.control_map)
        _copy(source, copy)
        _write_layout(copy, prepared, add_column=condition != CONDITION)
    return prepared


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """Give a file beside `out` that becomes `out` if all goes well, and goes away otherwise."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()  # what cannot be written is known before the work
        yield temporary
        temporary.replace(out)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"out={str(out)!r} cannot be written: {reason}; choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def _require_storable(control_map: ControlMap) -> None:
    names = [*control_map, *(cell for pairs in control_map.values() for cell in pairs)]
    slashed = [name for name in names if "/" in name]
    if slashed:
        raise InputError(
            f"dataset: {len(slashed):,} names of conditions or treated cells hold '/' ({quoted(slashed[:3])}), which an"
            " h5ad file cannot have as keys; rename them"
        )


def _copy(source: Any, copy: Path) -> None:
    if not isinstance(source, str | os.PathLike):
        source.write_h5ad(copy)
    elif Path(source).is_dir() or Path(source).suffix == ".zip":
        import anndata

        with reading(str(source)):
            adata = anndata.read_zarr(open_zarr(Path(source)))
        adata.write_h5ad(copy)
    else:
        shutil.copyfile(source, copy)


def _write_layout(path: Path, prepared: Preparation, *, add_column: bool) -> None:
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    labels = prepared.labels
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        if not isinstance(file.get("uns", obs), h5py.Group):
            raise InputError("dataset has an array where the group uns should be; write it again with anndata")
        uns = file.require_group("uns")
        if "column-order" not in obs.attrs:
            raise InputError("dataset was written by AnnData before 0.7; read it with a newer one and write it again")
        if add_column and CONDITION in obs:
            raise InputError(f"dataset has another column {CONDITION!r} in obs, where the conditions go; rename it")
        if add_column:
            write_elem(obs, CONDITION, pd.Categorical.from_codes(labels.codes, pd.Index(labels.names)))
            obs.attrs["column-order"] = [*obs.attrs["column-order"], CONDITION]
        write_elem(uns, DE_KEY, prepared.table)
        write_elem(uns, CONTROL_MAP_KEY, {})
        for name, pairs in prepared.control_map.items():
            write_elem(uns[CONTROL_MAP_KEY], name, {})
            _write_texts(uns[CONTROL_MAP_KEY][name], pairs)


def _write_texts(group: h5py.Group, texts: Mapping[str, str]) -> None:
    """Write each text as a dataset of its own, as AnnData does for a mapping.

    Copying one that is marked as text, and filling in the copies, takes an eighth of the time of marking each.
    """
    from anndata.io import write_elem
    from h5py import h5d, h5o, h5s, h5t, string_dtype

    as_text = h5t.py_create(string_dtype())
    first, *others = texts
    write_elem(group, first, texts[first])
    for key in others:
        h5o.copy(group.id, first.encode(), group.id, key.encode())
        h5d.open(group.id, key.encode()).write(h5s.ALL, h5s.ALL, np.array(texts[key], object), as_text)
