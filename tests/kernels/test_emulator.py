"""The emulation itself reports kernels that deadlock and programs that do not answer."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.emulator import Broken, Emulated

from gpubench.engines.cuda import kernels

X, ORDER, STARTS = np.zeros((1, 1), np.float32), np.zeros(1, np.int32), np.array([0, 1], np.int64)
ARGUMENTS = X, ORDER, STARTS, np.int32(1), np.int32(1), np.zeros((1, 1))


def test_program_that_does_not_answer_is_killed(tmp_path) -> None:
    program = tmp_path / "waits"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    kernel = Emulated("group_means", program)
    kernel.max_seconds = 0.2
    with pytest.raises(Broken, match="group_means ended with -9"):
        kernel((1,), (256,), *ARGUMENTS)


@pytest.mark.slow
def test_barrier_that_not_all_threads_reach_is_reported(emulate) -> None:
    text = kernels.source("group_means")
    late = text.replace("        sums[threadIdx.x]", "        if (threadIdx.x > 0) return;\n        sums[threadIdx.x]")
    with pytest.raises(Broken, match="threads wait for others that never come"):
        emulate("group_means", late)((1,), (256,), *ARGUMENTS)
