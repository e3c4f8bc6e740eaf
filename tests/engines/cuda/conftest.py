"""The CUDA engine on the host emulation: its own Python, CuPy's stand-in, kernels under emulation. No GPU is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import strict_cupy
from emulated import EmulatedDevice, StartOn, emulate_in_session, start

from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.cuda.workspace import CudaTuning


@pytest.fixture(autouse=True)
def process() -> Iterator[strict_cupy._Process]:
    """Start each test with empty pools, on the first device."""
    strict_cupy.reset()
    yield strict_cupy.process
    strict_cupy.reset()


@pytest.fixture
def tuning() -> CudaTuning:
    """Sizes of blocks; a module may override them."""
    return CudaTuning()


@pytest.fixture
def start_on(tuning: CudaTuning) -> StartOn:
    """Start the engine on a new device: `start_on(precision="fast", capability=(7, 5))`."""
    emulate = emulate_in_session()

    def make(capability: tuple[int, int] = (9, 0), free_bytes: int = 1 << 30, **options: Any) -> CudaEngine:
        return start(EmulatedDevice(emulate, capability, free_bytes), **{"tuning": tuning, **options})

    return make


@pytest.fixture
def engine(start_on: StartOn) -> CudaEngine:
    return start_on()
