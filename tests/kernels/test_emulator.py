"""The emulation itself: a kernel that never ends, or a program that never answers, is ended and named."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.emulator import Broken, Emulated

from gpubench.engines.cuda import kernels

ARGUMENTS = np.zeros(1, np.int32), np.zeros(1, np.int32), np.int64(1), np.int32(1), np.int32(1), np.int32(0)


def test_a_program_that_does_not_answer_is_ended(tmp_path) -> None:
    program = tmp_path / "waits"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    kernel = Emulated("contingency", program)
    kernel.most_seconds = 0.2
    with pytest.raises(Broken, match="contingency ended with -9"):
        kernel((1,), (32,), *ARGUMENTS, np.zeros((1, 1), np.int64))


def test_a_barrier_that_some_threads_never_reach_is_named(emulate) -> None:
    text = kernels.source("contingency")
    late = text.replace("    unsigned* table", "    if (threadIdx.x > 0) return;\n    unsigned* table")
    *sizes, _ = ARGUMENTS
    with pytest.raises(Broken, match="threads wait for others that never come"):
        emulate("contingency", late)((1,), (32,), *sizes, np.int32(1), np.zeros((1, 1), np.int64), shared=4)
