# syntax=docker/dockerfile:1
# docker build --target train -t cma-clip-train:0.1.0 .    training: DeepSpeed on PyTorch's CUDA image
# docker build --target serve -t cma-clip-serve:0.1.0 .    serving: NVIDIA's Triton and what the steps need
# What enters the build is listed in .dockerignore.

FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-devel AS train
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# g++ and Python.h build DeepSpeed's and Triton's launchers at first use; pdsh and ssh start ranks on other nodes.
# Not pinned (DL3008): Ubuntu's archive drops a package's old build with each update, and then the pin cannot install.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update \
    && apt-get install --yes --no-install-recommends g++ openssh-client pdsh python3-dev
WORKDIR /workspace
COPY . .
# The image's own torch stays: whatever would replace it fails the build.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=tmpfs,target=/tmp \
    python3 -m pip list --format=freeze | grep --extended-regexp '^(torch|torchvision|triton)==' > /tmp/constraints.txt \
    && python3 -m venv --system-site-packages --without-pip /opt/cma_clip \
    && python3 -m pip --python /opt/cma_clip/bin/python install --constraint /tmp/constraints.txt --editable '.[train]'
# Some of the bases have a user 1000 already.
RUN getent passwd 1000 || useradd --uid 1000 --create-home trainer
ENV PATH=/opt/cma_clip/bin:${PATH} \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="cma-clip-train" \
      org.opencontainers.image.description="Staged training of CMA-CLIP with DeepSpeed" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# DeepSpeed's launcher ends at the first signal and leaves its ranks to save their checkpoint; a container ends with
# its first process. So that one passes the signal on to all of them, and waits for the last.
COPY --chmod=755 <<"SCRIPT" /usr/local/bin/deepspeed-in-container
#!/bin/bash
setsid deepspeed "$@" &
launcher=$!
trap 'kill -TERM -- "-$launcher"' TERM INT
wait "$launcher"
status=$?
while kill -0 -- "-$launcher" 2> /dev/null; do sleep 0.2; done
exit "$status"
SCRIPT

USER 1000:1000
STOPSIGNAL SIGTERM
# The launcher's own options (--num_accelerators, --hostfile) stand before the script.
ENTRYPOINT ["deepspeed-in-container"]
CMD ["train/main.py", "--help"]


FROM nvcr.io/nvidia/tritonserver:26.11-py3 AS triton

FROM triton AS steps
WORKDIR /src
COPY . .
# NVIDIA builds its python backend with numpy 1; that of Triton 2.51 crashes under numpy 2.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/cma_clip \
    && python3 -m pip --python /opt/cma_clip/bin/python install '.[serve]' 'numpy<2'

FROM triton AS serve
COPY --from=steps /opt/cma_clip /opt/cma_clip
# Triton runs the steps in the environment whose python3 is first on PATH. Only /tmp and /dev/shm are written to.
ENV PATH=/opt/cma_clip/bin:${PATH} \
    HOME=/tmp \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="cma-clip-serve" \
      org.opencontainers.image.description="CMA-CLIP behind Triton Inference Server; mount an exported deploy/ at /models" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:26.11-py3"
WORKDIR /opt/cma_clip
USER 1000:1000
# HTTP (health), gRPC (requests), metrics
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# A real classification: it sees what the health endpoints do not, such as a step that hangs.
HEALTHCHECK --interval=30s --timeout=15s --start-period=180s --retries=3 \
    CMD ["python3", "-m", "client.canary", "--url", "localhost:8001"]
ENTRYPOINT ["python3", "-m", "serve.launch", "--profile", "production", "--repository", "/models"]
