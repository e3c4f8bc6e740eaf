# gpubench with its CUDA engine, for drivers of CUDA 12 and newer. From the root of the checkout:
#   docker build -f docker/cuda.Dockerfile -t gpubench:cuda .
#   docker run --rm --gpus all -v "$PWD:/data" gpubench:cuda score cells.h5ad --embedding X_pca --label cell_type
# g++ compiles the distance tiles of the CPU engine.
# The base image has only the driver interface: the CUDA libraries are wheels, installed with the packages that use them.
FROM nvidia/cuda:12.9.1-base-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gpubench gpubench
COPY kernels kernels
RUN python3 -m venv /opt/gpubench
ENV PATH=/opt/gpubench/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install ".[cuda12]"

FROM nvidia/cuda:12.9.1-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/gpubench /opt/gpubench
RUN useradd --create-home gpubench && install -d -o gpubench /data /var/cache/gpubench
# CuPy caches compiled kernels in CUPY_CACHE_DIR.
ENV PATH=/opt/gpubench/bin:$PATH CUPY_CACHE_DIR=/var/cache/gpubench
USER gpubench
WORKDIR /data
# There is no GPU while the image is built, so the demo runs on the CPU engine; the build fails if the demo fails.
RUN gpubench demo --out /tmp/demo && rm -r /tmp/demo
ENTRYPOINT ["gpubench"]
CMD ["--help"]
