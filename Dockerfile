# mmsparx with all tasks, installed by `make setup`.
#
#   docker build -t mmsparx .                                        # CPU
#   docker build -t mmsparx --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
#   docker run --rm mmsparx mmsparx doctor
#   docker run --rm -v "$PWD/data:/mmsparx/data" -v "$PWD/work_dirs:/mmsparx/work_dirs" mmsparx mmsparx train CONFIG
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# The CUDA image of Ubuntu 24.04 has Python 3.12 in its packages.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git libgl1 libglib2.0-0 make \
    && (command -v python3 || apt-get install -y --no-install-recommends python3-dev python3-venv) \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mmsparx
COPY . .
ARG FORCE_CUDA=0
ARG MAX_JOBS=2
RUN FORCE_CUDA=${FORCE_CUDA} MAX_JOBS=${MAX_JOBS} make setup && rm -rf ~/.cache
ENV PATH=/mmsparx/.venv/bin:${PATH}
