# The trainer, without the service: it scores over HTTP.
#   docker build -f docker/trainer.Dockerfile --target cpu -t prolonged-rl-trainer .       the demo
#   docker build -f docker/trainer.Dockerfile --target gpu --build-arg EXTRAS=trainer,vllm --build-arg TORCH_INDEX= .
FROM python:3.11-slim-bookworm AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev make \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv --without-pip /opt/trainer
WORKDIR /src
# PyTorch's wheels for CPU, unless there is one in docker/wheels; empty takes the package index's own, which bring CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0
ARG EXTRAS=trainer
COPY docker/dependencies.py pyproject.toml ./
RUN --mount=type=bind,source=docker/wheels,target=/wheels \
    python dependencies.py pyproject.toml --extras "$EXTRAS" --only pydantic,httpx,rich,numpy > requirements.txt \
 && pip="python -m pip --python /opt/trainer/bin/python install --no-cache-dir -q" \
 && if [ -z "$TORCH_INDEX" ]; then :; \
    elif ls /wheels/torch-*.whl >/dev/null 2>&1; then $pip /wheels/torch-*.whl; \
    else $pip --index-url "$TORCH_INDEX" "$TORCH"; fi \
 && $pip -r requirements.txt
COPY README.md LICENSE ./
COPY sandbox sandbox
COPY verifier_service verifier_service
COPY trainer trainer
RUN python -m pip --python /opt/trainer/bin/python install --no-cache-dir -q --no-deps .

FROM python:3.11-slim-bookworm AS cpu
LABEL org.opencontainers.image.title="prolonged-rl trainer" \
      org.opencontainers.image.description="GRPO with prolonged-training ingredients, rewards from the reward service" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10002 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trainer \
 && install -d -o 10002 -g 10002 /runs
COPY --from=build /opt/trainer /opt/trainer
COPY configs /app/configs
ENV PATH=/opt/trainer/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
USER 10002:10002
WORKDIR /app
VOLUME /runs
CMD ["trainer", "--help"]

FROM cpu AS gpu
USER 0:0
# Triton compiles its launchers on first use.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10002:10002
