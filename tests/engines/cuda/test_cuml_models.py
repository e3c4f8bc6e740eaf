"""Classifiers and silhouettes of cuML, named by the option `backend`, with a stand-in for cuML. No GPU is used."""

from __future__ import annotations

import sys
from typing import Any

import fake_libraries
import numpy as np
import pytest
from cells import Cells, make_cells
from emulated import StartOn

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines.cuda import cuml_models
from gpubench.engines.cuda.engine import CudaEngine

OPTIONS = {"backend": "cuml", "classifiers": "lr,knn", "n_folds": 2}


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(90, 5, n_labels=3, seed=4)


@pytest.fixture
def cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_libraries.install_cuml(monkeypatch)


@pytest.mark.usefixtures("cuml")
class TestBackend:
    def test_rows_record_the_backend_and_have_the_values_of_cuml(self, engine: CudaEngine, cells: Cells) -> None:
        tasks = ["embedding", "label_prediction"]
        result = gb.score(cells.x, engine=engine, label=cells.label.astype(str), tasks=tasks, **OPTIONS)
        assert result.failures == []
        assert {row.params.get("backend") for row in result.results} == {"cuml"}
        assert result.value("silhouette_score") == pytest.approx(
            gb.metrics.silhouette_label(cells.x, cells.label, engine="cpu"), abs=1e-5
        )
        notes = {row.params["classifier"]: row.note for row in result.results if "classifier" in row.params}
        assert "logistic regression of cuML" in notes["lr"]
        assert "nearest neighbours of cuML" in notes["knn"]
        own = gb.score(cells.x, engine=engine, label=cells.label.astype(str), tasks="embedding")
        assert all("backend" not in row.params for row in own.results)

    @pytest.mark.parametrize("metric", ["euclidean", "cosine"])
    def test_silhouettes_are_those_of_the_definition(self, engine: CudaEngine, cells: Cells, metric: Any) -> None:
        labels = cells.label.copy()
        labels[7] = 9  # the only cell of its label; 3 ... 8 have none
        ours = gb.metrics.silhouette_label(cells.x, labels, metric=metric, engine=engine)
        theirs = gb.metrics.silhouette_label(cells.x, labels, metric=metric, backend="cuml", engine=engine)
        assert theirs == pytest.approx(ours, abs=1e-5)
        assert (ours.params.get("backend"), theirs.params["backend"]) == (None, "cuml")

    @pytest.mark.parametrize("kind", ["lr", "knn"])
    def test_class_without_training_cells_has_probability_0(self, engine: CudaEngine, cells: Cells, kind: Any) -> None:
        x, codes = engine.put(cells.x), (cells.label * 2).astype(np.int32)
        proba = engine.to_host(engine.library_classifier(kind, "cuml").fit(x, codes, 6).predict_proba(x))
        assert proba.dtype == np.float64
        assert not proba[:, 1::2].any()
        assert np.mean(proba.argmax(axis=1) == codes) > 0.8

    @pytest.mark.parametrize("kind", ["lr", "knn"])
    def test_cells_of_one_class_are_refused(self, engine: CudaEngine, cells: Cells, kind: Any) -> None:
        with pytest.raises(InputError, match="needs training cells of two classes"):
            engine.library_classifier(kind, "cuml").fit(engine.put(cells.x), np.zeros(cells.n, np.int32), 2)

    def test_more_values_than_32_bits_count_are_refused(
        self, engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cuml_models.check_index(2**20, 2**11 - 1)
        with pytest.raises(InputError, match=r"cannot count 5,000,000 x 512 values in 32 bits; use fewer cells"):
            cuml_models.check_index(5_000_000, 512)
        monkeypatch.setattr(cuml_models, "MAX_INDEX", 200)  # half of the cells have 225 values
        result = gb.score(cells.x, engine=engine, label=cells.label.astype(str), tasks=["label_prediction"], **OPTIONS)
        rows = {row.params["classifier"]: row for row in result.results if row.metric == "mean_fold_accuracy"}
        assert np.isnan(rows["lr"].value)
        assert "lr cannot be trained: backend='cuml' cannot count 45 x 5 values" in rows["lr"].note
        assert rows["knn"].value > 0.5
        with pytest.raises(InputError, match="cannot count 90 x 5 values"):
            gb.metrics.silhouette_label(cells.x, cells.label, backend="cuml", engine=engine)

    def test_cuml_that_is_wrong_is_refused(
        self, engine: CudaEngine, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "_is_right", lambda operation, _: operation != "cuml")
        with pytest.raises(InputError, match=r"silhouettes of cuML are wrong on this GPU; leave out backend"):
            gb.metrics.silhouette_label(cells.x, cells.label, backend="cuml", engine=engine)


class TestRefusals:
    def test_other_engines_have_no_cuml(self, cells: Cells) -> None:
        with pytest.raises(InputError, match="backend='cuml' needs the engine 'cuda', this one is 'cpu'"):
            gb.score(cells.x, engine="cpu", label=cells.label.astype(str), backend="cuml")
        with pytest.raises(InputError, match="backend='cuml' needs the engine 'cuda'"):
            gb.metrics.silhouette_label(cells.x, cells.label, backend="cuml", engine="cpu")

    def test_cuml_that_is_not_installed_is_refused_before_anything_is_computed(
        self, start_on: StartOn, cells: Cells, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cuml", None)
        monkeypatch.setattr("gpubench.engines.cuda.memory.find_spec", lambda _: None)
        with pytest.raises(InputError, match="backend='cuml' needs cuML, which is not installed; install it with: pip"):
            gb.score(cells.x, engine=start_on(), label=cells.label.astype(str), backend="cuml")

    def test_unknown_backend_is_refused(self, cells: Cells) -> None:
        with pytest.raises(InputError, match="backend='cudf' is unknown; use one of: 'gpubench', 'cuml'"):
            gb.score(cells.x, engine="cpu", label=cells.label.astype(str), backend="cudf")
