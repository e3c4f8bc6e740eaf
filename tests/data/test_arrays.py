"""Row sources over Parquet files: reading after an error, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpubench.core.errors import InputError
from gpubench.data._formats import arrays
from gpubench.data._formats.arrays import ParquetRows

X = np.arange(60.0).reshape(20, 3)


class Failing:
    """Batches whose third raises an error."""

    def __init__(self, batches: object) -> None:
        self._batches, self._n_asked = iter(batches), 0

    def __iter__(self) -> Failing:
        return self

    def __next__(self) -> pa.RecordBatch:
        self._n_asked += 1
        if self._n_asked == 3:
            raise OSError("no answer")
        return next(self._batches)


def test_parquet_rows_after_an_error_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_BATCH_ROWS", 4)
    pq.write_table(pa.table(dict(zip("abc", X.T, strict=True))), tmp_path / "emb.parquet")
    rows = ParquetRows(tmp_path / "emb.parquet")
    with monkeypatch.context() as patch:
        iter_batches = pq.ParquetFile.iter_batches
        patch.setattr(pq.ParquetFile, "iter_batches", lambda *args, **kwargs: Failing(iter_batches(*args, **kwargs)))
        np.testing.assert_array_equal(rows.read(0, 3), X[:3])
        with pytest.raises(InputError, match="no answer"):
            rows.read(3, 10)
    np.testing.assert_array_equal(rows.read(3, 10), X[3:10])


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(column) for column in X.T], names=["a", "b", "a"])
    pq.write_table(table, tmp_path / "emb.parquet")
    with pytest.raises(InputError, match=r"has several columns of one name: 'a'; rename all but one of each$"):
        ParquetRows(tmp_path / "emb.parquet")
