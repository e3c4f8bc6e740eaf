# gpubench with its CPU engine. From the root of the checkout:
#   docker build -f docker/cpu.Dockerfile -t gpubench:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" gpubench:cpu \
#       score cells.h5ad --embedding X_pca --label cell_type --out results
FROM python:3.12.8-slim-bookworm AS build
# g++ compiles the distance tiles; the image itself has no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gpubench gpubench
COPY kernels kernels
RUN python -m venv /opt/gpubench
ENV PATH=/opt/gpubench/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip install ".[cpu]"

FROM python:3.12.8-slim-bookworm
# libgomp: OpenMP of scikit-learn, which slim images lack.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/gpubench /opt/gpubench
# Any user may write here, as `--user` makes it necessary.
RUN useradd --create-home gpubench && install -d -m 1777 /data /cache
ENV PATH=/opt/gpubench/bin:$PATH HOME=/cache GPUBENCH_CACHE=/cache/gpubench
USER gpubench
WORKDIR /data
# The build fails if the demo does. What it has written belongs to its user, so it is removed.
RUN gpubench demo --out /tmp/demo && rm -r /tmp/demo && find /cache -mindepth 1 -delete
ENTRYPOINT ["gpubench"]
CMD ["--help"]
