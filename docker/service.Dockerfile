# API and workers: one image, the command decides. No torch, and no build tools but the languages it offers.
#   docker build -f docker/service.Dockerfile -t prolonged-rl-service .
#   --build-arg LANGUAGES=""      Python programs only
FROM python:3.11-slim-bookworm AS build
# Some dependencies come without a wheel; what compiles them stays in this stage.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev make \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv --without-pip /opt/verifier
WORKDIR /src
# Dependencies first: this layer outlives every change of the code.
COPY docker/dependencies.py pyproject.toml ./
RUN python dependencies.py pyproject.toml > requirements.txt \
 && python -m pip --python /opt/verifier/bin/python install --no-cache-dir -q -r requirements.txt
COPY README.md LICENSE ./
COPY sandbox sandbox
COPY verifier_service verifier_service
# pip compiles to bytecode, which a read-only container could not do later.
RUN python -m pip --python /opt/verifier/bin/python install --no-cache-dir -q --no-deps .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="prolonged-rl service" \
      org.opencontainers.image.description="API and grading workers of the reward service" \
      org.opencontainers.image.licenses="Apache-2.0"
# Compilers of the languages that are graded, by Debian package.
ARG LANGUAGES="gcc g++"
RUN if [ -n "$LANGUAGES" ]; then apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends $LANGUAGES && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; fi
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin verifier
COPY --from=build /opt/verifier /opt/verifier
ENV PATH=/opt/verifier/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
CMD ["verifier", "serve", "--host", "0.0.0.0", "--port", "8000"]
