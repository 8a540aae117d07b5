# syntax=docker/dockerfile:1
# The worker as an image. With BAKE=1 it holds the Python environment and VibeVoice's code, so that
# a start reads neither over the network; with BAKE=0 the first start builds them on the volume.
# The weights are in neither. The base has no compiler: torch's wheels bring their own CUDA.
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

ENV LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    VIBEVOICE_IMAGE=1 \
    RUNPOD_LOG_LEVEL=INFO \
    RUNPOD_GPU_BENCHMARK_TIMEOUT=10 \
    HF_XET_HIGH_PERFORMANCE=1

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates \
        ffmpeg \
        git \
        libsndfile1 \
        python3-pip \
        python3.12 \
        python3.12-venv \
        tini \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace/vibevoice

# What changes seldom comes first: a change of the worker's own code leaves the environment cached.
COPY bootstrap.sh requirements.txt ./
COPY provision/ provision/
ARG BAKE=1
RUN if [ "$BAKE" = 1 ]; then \
        VIBEVOICE_VOLUME=/opt/vibevoice SKIP_MODEL_DOWNLOAD=1 bash bootstrap.sh --prefetch; \
    fi

COPY *.py test_input.json ./
COPY api/ api/
COPY audio/ audio/
COPY delivery/ delivery/
COPY engines/ engines/
COPY request/ request/
COPY synthesis/ synthesis/
COPY text/ text/
COPY transcription/ transcription/
COPY voices/ voices/
COPY worker/ worker/
COPY bridge/ bridge/
# The models' tokenizer is a repository of its own: with it, a cached model needs no network at all.
RUN if [ "$BAKE" = 1 ]; then \
        /opt/vibevoice/venv/bin/python -m provision.model --tokenizer /opt/vibevoice/hf_cache; \
    fi

# As root, whom RunPod's volumes belong to. PID 1 has to pass signals on and to reap.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["bash", "bootstrap.sh"]
