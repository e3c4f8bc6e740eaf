"""Every kernel compiles for every GPU that is supported, without a warning."""

from __future__ import annotations

import pytest
from kernels.nvrtc import Nvrtc, find_library

from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNELS

ARCHITECTURES = (75, 80, 90, 100, 120)


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    library = find_library()
    if library is None:
        pytest.skip("NVRTC is not installed; pip install nvidia-cuda-nvrtc-cu12")
    return Nvrtc(library)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernel_compiles_without_a_warning(nvrtc, name, architecture) -> None:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC knows {nvrtc.architectures()}, not {architecture}")
    # CuPy adds -ftz=true to the options that it is given
    options = f"--gpu-architecture=sm_{architecture}", "-ftz=true", *kernels.OPTIONS
    assert nvrtc.compile(kernels.source(name), name, options) == (True, "")


@pytest.mark.parametrize("bug", ["int unused;", "int* p = 0; float* q = p;", 'extern "C" __global__ void rank();'])
def test_faulty_source_is_reported(nvrtc, bug) -> None:
    text = kernels.source("rank").replace("DYNAMIC_SHARED(shared);", "") + f"__device__ void f() {{ {bug} }}"
    assert nvrtc.compile(text, "rank", kernels.OPTIONS)[1] != ""
