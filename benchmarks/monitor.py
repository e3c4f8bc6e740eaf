"""Share of a training loop's time that `gpubench.Monitor` takes: an autoencoder of expression profiles on the CPU.

python benchmarks/monitor.py [--cells 100000] [--genes 2000] [--hidden 512] [--epochs 4] [--sample 5000]

Prints one JSON object. The loop trains a linear-ReLU-linear encoder and its mirrored decoder with Adam on
random counts, embeds the monitored cells after each epoch, and scores them.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

import gpubench as gb


def main() -> None:
    """Train and print what the monitor cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"cells": 100_000, "genes": 2000, "hidden": 512, "epochs": 4, "sample": 5000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tasks", nargs="+", default=["embedding", "batch_integration"])
    given = parser.parse_args()

    rng = np.random.default_rng(0)
    label, batch = rng.integers(0, 20, given.cells), rng.integers(0, 6, given.cells)
    rates = rng.gamma(0.3, 2.0, (20, given.genes)) * rng.gamma(9.0, 1 / 9, (6, 1, given.genes))
    parts = np.array_split(np.arange(given.cells), 50)
    counts = (rng.poisson(rates[batch[part], label[part]]).astype(np.float32) for part in parts)
    x = torch.from_numpy(np.concatenate([np.log1p(part) for part in counts]))

    torch.manual_seed(0)
    sizes = given.genes, given.hidden, 50
    encoder = torch.nn.Sequential(torch.nn.Linear(*sizes[:2]), torch.nn.ReLU(), torch.nn.Linear(*sizes[1:]))
    decoder = torch.nn.Sequential(torch.nn.Linear(*sizes[:0:-1]), torch.nn.ReLU(), torch.nn.Linear(*sizes[1::-1]))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    monitor = gb.Monitor(label, batch, tasks=given.tasks, sample=given.sample, engine="cpu")

    begin, cpu_begin, monitor_cpu_s, shares = time.perf_counter(), time.process_time(), 0.0, []
    for _ in range(given.epochs):
        for rows in torch.randperm(given.cells).split(256):
            loss = torch.nn.functional.mse_loss(decoder(encoder(x[rows])), x[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        monitor.reset()
        with torch.no_grad():
            for rows in torch.from_numpy(monitor.index).split(1024):
                monitor.update(encoder(x[rows]), index=rows)
        scoring = time.process_time()
        values = monitor.compute()
        monitor_cpu_s += time.process_time() - scoring
        shares.append(monitor.cost_share)
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu_begin
    print(
        json.dumps(
            {
                **vars(given),
                "seconds": round(seconds, 2),
                "monitor_s": round(monitor.cost_s, 3),
                "share": round(monitor.cost_s / seconds, 4),
                "cpu_s": round(cpu_s, 2),
                "cpu_share_of_compute": round(monitor_cpu_s / cpu_s, 4),
                "share_of_each_epoch": [round(share, 4) for share in shares],
                "last": {key: round(value, 4) for key, value in values.items()},
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "gpubench": gb.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
