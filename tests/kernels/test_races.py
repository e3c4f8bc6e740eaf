"""No kernel has a data race: its threads run under the thread sanitizer, where only barriers order what they do."""

from __future__ import annotations

from importlib import import_module

import pytest

from gpubench.engines.cuda.signatures import KERNELS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernel_has_no_data_race(emulate, thread_sanitizer, name) -> None:
    import_module(f"kernels.test_{name}").check(emulate(name, sanitizer=thread_sanitizer()))
