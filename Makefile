# Every target sets itself up in a local virtual environment and can be run again without harm.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
VLLM_VENV ?= .venv-vllm
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-vllm soak lint bench gpu-check calibrate images compose-test k8s-test clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## the virtual environment with everything the demo and the tests need
$(STAMP): pyproject.toml scripts/setup.sh
	scripts/setup.sh $(VENV) '.[trainer,test,docker,tracing]'
	@touch $@

demo: $(STAMP) ## score a batch of every kind over REST, then train on those rewards (CPU, minutes)
	$(PY) examples/demo.py

lint: $(STAMP) ## ruff and mypy
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

test: lint ## all tests, at sizes that end within 15 minutes on 2 cores
	$(PY) -m pytest -q -m 'not soak' tests

test-vllm: $(VLLM_VENV)/.installed ## the real vLLM (CPU build, an environment of its own): both engines, weights, the loop
	$(VLLM_VENV)/bin/python -m pytest -q -m vllm tests/trainer

$(VLLM_VENV)/.installed: pyproject.toml scripts/setup-vllm.sh
	scripts/setup-vllm.sh $(VLLM_VENV)
	@touch $@

soak: lint ## the same tests at full size
	$(PY) -m pytest -q --timeout 7200 tests

bench: $(STAMP) ## every benchmark whose numbers README quotes
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(PY) $$script; done

gpu-check: $(STAMP) ## on a machine with a CUDA GPU: correctness, MFU, memory, vLLM; writes gpu-check.md (GPU_CHECK=--quick: minutes)
	$(PY) -m scripts.gpu_check $(GPU_CHECK)

calibrate: $(STAMP) ## docs/calibration.md from the labelled sets in ../shared/cases (or FOLDERS=...)
	$(PY) -m scripts.calibrate $(FOLDERS)

images: ## the two container images (starts a Docker engine where none runs)
	docker/engine.sh run docker/build.sh --profile default

compose-test: $(STAMP) ## the compose deployment, built, started, broken and judged (starts a Docker engine where none runs)
	docker/engine.sh run env COMPOSE_TEST=1 $(PY) -m pytest -v -s \
		$(addprefix tests/deploy/test_compose,.py _up.py _isolation.py _throughput.py _life.py)

k8s-test: $(STAMP) ## every overlay rendered, validated against three versions of Kubernetes, cross-checked
	$(PY) -m pytest -v tests/deploy/test_k8s.py tests/deploy/test_k8s_hardening.py tests/deploy/test_monitoring.py

clean: ## remove the virtual environment and what runs left behind
	rm -rf $(VENV) $(VLLM_VENV) runs build .mypy_cache .ruff_cache .hypothesis
