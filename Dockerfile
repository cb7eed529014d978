# Trains on NVIDIA GPUs; see docs/clusters.md.
#
#     docker build --tag litv2-jax .
#     docker run --gpus all --shm-size=8g --volume /data:/data litv2-jax \
#         litv2-train --config configs/imagenet.py:litv2_s --workdir /data/runs/s \
#         --config.data.data_dir=/data/tfds

# The smallest of the images: JAX's packages bring the libraries of CUDA, and the driver
# is the host's.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu's Python, 3.12, takes packages only into an environment.
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv

WORKDIR /opt/litv2_jax
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY LICENSES LICENSES
COPY configs configs
COPY litv2_jax litv2_jax
RUN pip install --no-cache-dir --constraint constraints.txt '.[cuda12,coco,demo,export]'

# Not root: files in mounted folders belong to the user who starts the container with
# --user, or else to this one.
RUN useradd --create-home --uid 10001 litv2
USER litv2
WORKDIR /home/litv2
