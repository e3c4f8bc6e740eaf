"""The CUDA engine: our kernels, CuPy, cuML and cuGraph."""
