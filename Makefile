# AccelBench. Every target needs a Python >= 3.11 and a package index, nothing else; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
PYTEST := $(BIN)/python -m pytest
UV_ENV := UV_PROJECT_ENVIRONMENT=$(VENV) VIRTUAL_ENV=$(CURDIR)/$(VENV) UV_LINK_MODE=copy

.DEFAULT_GOAL := help
.PHONY: help install demo demo-vllm test test-long test-faults conformance lint ui bench bench-loadgen lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything pinned in requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "AccelBench needs Python 3.11 or newer; none was found on PATH. Install one, or say: make PYTHON=/path/to/python3.12 install" >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) could not make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	$(UV_ENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	$(UV_ENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q accelbench_assets loadgen partitions
	@touch $@

demo: install ## the whole job on this machine, on a real engine, in about two minutes
	$(BIN)/accelbench demo

demo-vllm: install ## the same ladder on real vLLM (CPU), in an environment of its own; Python 3.11
	$(BIN)/accelbench demo --engine vllm

test: install ## lint, types and every test but the long ones
	$(MAKE) --no-print-directory lint
	$(PYTEST) -n 2 --dist loadgroup -m "not long"

test-long: install ## the tests that take minutes each, and every property test on new random examples
	$(PYTEST) -m long
	$(PYTEST) -n 2 --dist loadgroup -m "hypothesis and not long" --hypothesis-profile=search

test-faults: install ## every fault of a run on Kubernetes, on an emulated cluster, as a table
	$(PYTEST) tests/faults -m "long or not long"

conformance: install ## the launcher's checks against your cluster: make conformance KUBECONFIG=… [NAMESPACE=… IMAGE=…]
	@if [ -z "$(KUBECONFIG)" ]; then echo "Name the cluster: make conformance KUBECONFIG=/path/to/kubeconfig" >&2; exit 1; fi
	KUBECONFIG="$(KUBECONFIG)" $(BIN)/python -m tests.launch.conformance --namespace "$(or $(NAMESPACE),accelbench-bench)" $(if $(IMAGE),--image "$(IMAGE)")

lint: install ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: install ## open the Dagster UI on the same lake and instance
	$(BIN)/accelbench ui

bench: install ## benchmarks: ratios measured in one run
	$(PYTEST) tests/benchmarks -m "long or not long" -s

bench-loadgen: install ## our load generator beside four others against the ground-truth server (fetches them: ~12 GB, ~20 min)
	$(BIN)/python -m tests.benchmarks.loadgen_peers $(ARGS)

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11
IMAGE_LOCK = $(COMPILE) --no-header -c requirements.lock

lock: ## resolve requirements.lock and the images' locks anew (universal, hashed, without addresses)
	$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	$(IMAGE_LOCK) --extra k8s --extra aws pyproject.toml -o infra/docker/requirements-code.lock
	$(IMAGE_LOCK) infra/docker/loadgen.in -o infra/docker/requirements-loadgen.lock
	echo hatchling | $(IMAGE_LOCK) - -o infra/docker/requirements-build.lock

clean: ## remove .venv and .venv-vllm; measurements in .accelbench stay
	rm -rf $(VENV) .venv-vllm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
