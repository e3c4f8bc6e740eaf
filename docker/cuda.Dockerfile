# gpubench with its CUDA engine, for drivers of CUDA 12 (CUDA=12, the default) or of CUDA 13 and newer (CUDA=13). From the
# root of the checkout:
#   docker build -f docker/cuda.Dockerfile --build-arg CUDA=13 -t gpubench:cuda13 .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" gpubench:cuda13 \
#       score cells.h5ad --embedding X_pca --label cell_type --out results
# The NVIDIA container toolkit brings the driver; the CUDA libraries are wheels, more than 10 GB once installed. A driver
# that is too old for them is reported by gpubench.
FROM python:3.12.8-slim-bookworm AS build
ARG CUDA=12
# g++ compiles the distance tiles of the CPU engine; the image itself has no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gpubench gpubench
COPY kernels kernels
RUN python -m venv /opt/gpubench
ENV PATH=/opt/gpubench/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install ".[cuda${CUDA}]"

FROM python:3.12.8-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/gpubench /opt/gpubench
# Any user may write here, as `--user` makes it necessary. /cache holds compiled kernels, measured times and datasets; give
# it a volume to keep them: -v gpubench-cache:/cache
RUN useradd --create-home gpubench && install -d -m 1777 /data /cache
ENV PATH=/opt/gpubench/bin:$PATH HOME=/cache GPUBENCH_CACHE=/cache/gpubench CUPY_CACHE_DIR=/cache/cupy
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER gpubench
WORKDIR /data
# There is no GPU while the image is built, so the demo runs on the CPU engine; the build fails if the demo fails. What it
# has written belongs to its user, so it is removed.
RUN gpubench demo --out /tmp/demo && rm -r /tmp/demo && find /cache -mindepth 1 -delete
ENTRYPOINT ["gpubench"]
CMD ["--help"]
