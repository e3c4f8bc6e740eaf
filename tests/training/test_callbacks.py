"""Callbacks and metrics for Lightning, transformers and torchmetrics: small models, two epochs, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubench as gb
from gpubench.core.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_torch")]

KEY = "embedding/silhouette_score"


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    """What the packages warn of among themselves is not tested here; what gpubench warns of fails a test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", gb.GpubenchWarning)
        yield


class Cells:
    """200 cells of two types; a data set of dicts."""

    def __init__(self) -> None:
        import torch

        rng = np.random.default_rng(0)
        self.label = np.repeat(["a", "b"], 100)
        x = rng.normal(size=(200, 10)) + 1.5 * (self.label == "b")[:, None]
        self.x = torch.tensor(x, dtype=torch.float32)

    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": self.x[i], "cell": i}

    def monitor(self, **changes: Any) -> gb.Monitor:
        return gb.Monitor(self.label, sample=80, engine="cpu", threads=1, **changes)

    def loader(self, *, shuffle: bool = False) -> Any:
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.utils.data.DataLoader(self, batch_size=32, shuffle=shuffle, generator=generator)


@pytest.fixture
def cells() -> Cells:
    return Cells()


def expected_of(cells: Cells, encode: Any) -> float:
    """The silhouette of the cells that the monitor scores."""
    import torch

    with torch.no_grad():
        x = encode(cells.x).numpy()
    own = cells.monitor().index
    result = gb.score(x[own], label=cells.label[own], tasks="embedding", engine="cpu", seed=0)
    return result.value("silhouette_score")


def make_module() -> Any:
    import torch
    from lightning.pytorch import LightningModule

    class Autoencoder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.decoder = torch.nn.Linear(10, 4), torch.nn.Linear(4, 10)

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.mse_loss(self.decoder(self.encoder(batch["x"])), batch["x"])

        def validation_step(self, batch: Any, _: int) -> Any:
            return {"latent": self.encoder(batch["x"])}

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    return Autoencoder()


def fit(
    folder: Path, cells: Cells, *callbacks: Any, validate: bool = True, epochs: int = 2, shuffle: bool = False
) -> Any:
    """Train for some epochs; returns the trainer and the module."""
    from lightning.pytorch import Trainer

    module = make_module()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loaders = {"val_dataloaders": cells.loader(shuffle=shuffle)} if validate else {}
    trainer.fit(module, cells.loader(shuffle=True), **loaders)
    return trainer, module


@pytest.mark.usefixtures("needs_lightning")
class TestLightning:
    @pytest.mark.parametrize("embed", ["latent", lambda module, batch: module.encoder(batch["x"])])
    def test_validation_batches_are_scored_and_logged(self, cells: Cells, embed: Any, tmp_path: Path) -> None:
        from gpubench.training.lightning import MonitorCallback

        monitor = cells.monitor()
        trainer, module = fit(tmp_path, cells, MonitorCallback(monitor, embed))
        assert monitor.trend["step"].tolist() == [0, 1]
        assert monitor.trend["n_cells"].tolist() == [80, 80]
        expected = expected_of(cells, module.encoder)
        assert monitor.trend[KEY].iloc[-1] == pytest.approx(expected, abs=1e-6)
        assert float(trainer.callback_metrics[KEY]) == pytest.approx(expected, abs=1e-6)

    def test_shuffled_batches_have_an_index(self, cells: Cells, tmp_path: Path) -> None:
        from gpubench.training.lightning import MonitorCallback

        for index in ("cell", lambda batch: batch["cell"]):
            monitor = cells.monitor()
            callback = MonitorCallback(monitor, "latent", index=index, prefix="val/")
            trainer, module = fit(tmp_path, cells, callback, shuffle=True)
            assert float(trainer.callback_metrics[f"val/{KEY}"]) == pytest.approx(
                expected_of(cells, module.encoder), abs=1e-6
            )

    def test_a_data_loader_of_its_own(self, cells: Cells, tmp_path: Path) -> None:
        from gpubench.training.lightning import MonitorCallback

        monitor = cells.monitor()
        embed = lambda module, batch: module.encoder(batch["x"])  # noqa: E731
        callback = MonitorCallback(monitor, embed, dataloader=cells.loader(), every_n_epochs=2)
        trainer, module = fit(tmp_path, cells, callback, validate=False, epochs=4)
        assert monitor.trend["step"].tolist() == [1, 3]
        assert float(trainer.callback_metrics[KEY]) == pytest.approx(expected_of(cells, module.encoder), abs=1e-6)

    def test_early_stopping_goes_by_the_values(self, cells: Cells, tmp_path: Path) -> None:
        from lightning.pytorch.callbacks import EarlyStopping

        from gpubench.training.lightning import MonitorCallback

        monitor = cells.monitor()
        stopping = EarlyStopping(KEY, mode="max", patience=1, min_delta=10.0)
        trainer, _ = fit(tmp_path, cells, stopping, MonitorCallback(monitor, "latent"), epochs=9)
        assert trainer.current_epoch == 2, "no epoch is better than the first by 10"

    def test_what_cannot_be_collected_is_named(self, cells: Cells, tmp_path: Path) -> None:
        from gpubench.training.lightning import MonitorCallback

        monitor = cells.monitor()
        with pytest.raises(InputError, match="embed='latnt' is not returned by validation_step"):
            fit(tmp_path, cells, MonitorCallback(monitor, "latnt"))
        with pytest.raises(InputError, match=r"index='cells' is not in the batches \(did you mean 'cell'\?\)"):
            fit(tmp_path, cells, MonitorCallback(monitor, "latent", index="cells"))
        with pytest.raises(InputError, match="every_n_epochs=0 cannot be used"):
            MonitorCallback(monitor, "latent", every_n_epochs=0)
        with pytest.raises(InputError, match="embed='latent' is returned by validation steps only"):
            MonitorCallback(monitor, "latent", dataloader=cells.loader())


@pytest.mark.usefixtures("needs_transformers")
class TestTransformers:
    @pytest.fixture(autouse=True)
    def _no_package_datasets(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """The folder tests/datasets looks like that package, as tests import from the folder tests."""
        request.getfixturevalue("needs_transformers")
        monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)

    def train(self, cells: Cells, folder: Path, *callbacks: Any, **changes: Any) -> Any:
        import torch
        from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

        class Autoencoder(PreTrainedModel):
            config_class = PretrainedConfig

            def __init__(self, config: Any) -> None:
                super().__init__(config)
                torch.manual_seed(0)
                self.encoder, self.decoder = torch.nn.Linear(10, 4), torch.nn.Linear(4, 10)
                self.post_init()

            def forward(self, x: Any, labels: Any = None) -> Any:  # noqa: ARG002 - the Trainer evaluates what has them
                return {"loss": torch.nn.functional.mse_loss(self.decoder(self.encoder(x)), x)}

        given = {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "no", "report_to": "none"}
        arguments = TrainingArguments(
            str(folder), per_device_train_batch_size=32, use_cpu=True, disable_tqdm=True, **{**given, **changes}
        )
        data = [{"x": x, "labels": 0} for x in cells.x]
        trainer = Trainer(
            Autoencoder(PretrainedConfig()), arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks)
        )
        trainer.train()
        return trainer

    def test_evaluation_has_the_values(self, cells: Cells, tmp_path: Path) -> None:
        from gpubench.training.transformers import MonitorTrainerCallback

        monitor = cells.monitor()
        callback = MonitorTrainerCallback(monitor, lambda model, batch: model.encoder(batch["x"]))
        trainer = self.train(cells, tmp_path, callback)
        logged = [entry[f"eval_{KEY}"] for entry in trainer.state.log_history if f"eval_{KEY}" in entry]
        assert logged == monitor.trend[KEY].tolist()
        assert len(logged) == 2
        assert logged[-1] == pytest.approx(expected_of(cells, trainer.model.encoder), abs=1e-6)
        assert trainer.evaluate()[f"eval_{KEY}"] == pytest.approx(logged[-1])
        callback.log = trainer.log
        trainer.evaluate()
        assert f"eval_{KEY}" in trainer.state.log_history[-1]

    def test_a_shuffling_loader_without_index_is_refused(self, cells: Cells, tmp_path: Path) -> None:
        import torch

        from gpubench.training.transformers import MonitorTrainerCallback

        data = [{"x": x, "labels": 0} for x in cells.x]
        loader = torch.utils.data.DataLoader(data, batch_size=50, shuffle=True)
        callback = MonitorTrainerCallback(
            cells.monitor(), lambda model, batch: model.encoder(batch["x"]), dataloader=loader
        )
        with pytest.raises(InputError, match="index is missing: the data loader draws cells at random"):
            self.train(cells, tmp_path, callback)

    def test_early_stopping_goes_by_the_values(self, cells: Cells, tmp_path: Path) -> None:
        from transformers import EarlyStoppingCallback

        from gpubench.training.transformers import MonitorTrainerCallback

        monitor = cells.monitor()
        trainer = self.train(
            cells,
            tmp_path,
            MonitorTrainerCallback(monitor, lambda model, batch: model.encoder(batch["x"])),
            EarlyStoppingCallback(1, 10.0),
            num_train_epochs=6,
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model=KEY,
        )
        assert trainer.state.epoch == 2
        assert trainer.state.best_metric == pytest.approx(monitor.trend[KEY].max())


@pytest.mark.usefixtures("needs_torchmetrics")
class TestTorchmetrics:
    def test_metric_has_the_values_of_the_monitor(self, cells: Cells) -> None:
        import torch
        from torchmetrics import MetricCollection

        from gpubench.training.torchmetrics import MonitorMetric

        metric = MonitorMetric(cells.monitor())
        order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
        for _ in range(2):
            for part in order.split(50):
                metric.update(cells.x[part], part)
            values = metric.compute()
            assert float(values[KEY]) == expected_of(cells, lambda x: x)
            metric.reset()
        collection = MetricCollection({"a": metric.clone()})
        collection.update(cells.x)
        assert float(collection.compute()[KEY]) == float(values[KEY])

    def test_a_call_needs_the_index_and_scores_its_batch(self, cells: Cells) -> None:
        from gpubench.training.torchmetrics import MonitorMetric

        metric = MonitorMetric(cells.monitor())
        with pytest.raises(InputError, match="index is missing: a call of the metric scores each batch alone"):
            metric(cells.x[:100])
        first, second = np.split(np.random.default_rng(1).permutation(200), 2)
        with pytest.warns(gb.GpubenchWarning, match="of the 80 cells of the subset were not given"):
            metric(cells.x[first], first)
        metric(cells.x[second], second)
        assert float(metric.compute()[KEY]) == expected_of(cells, lambda x: x)
