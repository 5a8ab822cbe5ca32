# Set-up is part of every target; it does nothing when it is done.
PYTHON ?= python3.11
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
FAST := tests/core tests/reports tests/contract tests/cli tests/docs tests/workloads tests/store -m "not s3 and not docker"
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The longest first. (Given a file and its folder, pytest runs the file alone.)
LONG := $(addprefix tests/pipeline/test_,sigkill.py batching.py overlap.py mnist.py)
TRAININGS := tests/pipeline/test_training.py \
  $(filter-out tests/pipeline/test_training.py $(LONG),$(wildcard tests/pipeline/test_*.py))
# Beside TensorFlow's own packages, for the tests that need it.
TENSORFLOW_PYTEST := $(BIN)/fededge env run tensorflow --with pytest==8.4.2 --with pytest-timeout==2.4.0 \
  --with pytest-xdist==3.8.0 --with hypothesis==6.170.15 -- -m pytest

.PHONY: help setup run test test-fast test-long test-s3 test-docker lint compile lock images clean

help: ## Explain the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: .venv/ready ## Make the environments: ours in .venv, the steps' in the user's cache (once, 3 GB)
	@$(BIN)/fededge env create tensorflow

run: setup ## Train: 5 rounds, 10 clients, as the compiled pipeline, on this machine
	$(BIN)/fededge run

test: setup lint ## Run the tests that need neither root nor Debian packages, some ten minutes
	$(PYTEST) $(FAST) $(PARALLEL)
	$(TENSORFLOW_PYTEST) tests/learners tests/steps tests/faults tests/benchmarks $(PARALLEL)
	$(PYTEST) $(TRAININGS) $(PARALLEL)

test-fast: .venv/ready ## Run the tests that take seconds
	$(PYTEST) $(FAST) $(PARALLEL) -x

test-long: setup ## Run the long ones: kills, runs that overlap, batching, MNIST
	$(PYTEST) $(LONG) $(PARALLEL)

test-s3: setup ## Test against a real S3 server; needs root and Debian's ceph-mon ceph-osd radosgw
	FEDEDGE_REQUIRE_S3=1 $(PYTEST) -m "s3 and not docker"
	FEDEDGE_REQUIRE_S3=1 $(TENSORFLOW_PYTEST) tests/store/test_s3_rounds.py

test-docker: setup ## Build the images and train in them; needs root and Debian's docker.io debootstrap iptables
	FEDEDGE_REQUIRE_DOCKER=1 $(PYTEST) -m docker

lint: .venv/ready ## Check style, types and the imports that are not allowed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

compile: .venv/ready ## Write pipelines/compiled/*.yaml from the DSL
	$(BIN)/python -m pipelines.compile

lock: .venv/ready ## Write the locks from their inputs
	PATH="$(CURDIR)/$(BIN):$$PATH" images/lock.sh

images: .venv/ready ## Build the images with Docker
	PATH="$(CURDIR)/$(BIN):$$PATH" images/build.sh

clean: ## Remove what the targets made here; the user's cache and .fededge stay
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or pass PYTHON=…"; exit 1; }
	@echo "Making the control environment in .venv (once, half a minute)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
