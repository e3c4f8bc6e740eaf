"""The Dask engine: the CPU or CUDA engine on every worker of a cluster."""
