# Set-up is part of every target; it does nothing when it is done.
PYTHON ?= python3.11
BIN := .venv/bin
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' fededge/__init__.py)
PYTEST := $(BIN)/python -m pytest
MANIFESTS := $(wildcard tests/contract/test_manifests*.py)
FAST := tests/core tests/datasets tests/reports $(filter-out $(MANIFESTS),$(wildcard tests/contract/test_*.py)) tests/cli \
  tests/docs tests/workloads tests/store -m "not s3 and not docker"
# What runs on a cluster or talks to one, and to registries.
CLUSTER_STEPS := tests/steps/test_train_in_jobs.py tests/steps/test_deploy_model.py
CLUSTER := $(MANIFESTS) tests/cluster tests/kubeflow tests/monitoring tests/registry tests/rollout tests/serving \
  $(CLUSTER_STEPS) -m "not s3 and not docker"
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The longest first. (Given a file and its folder, pytest runs the file alone.)
LONG := $(addprefix tests/pipeline/test_,applications.py simulate.py notebooks.py interrupt.py sigkill.py comparison.py \
  equal_learners.py jobs.py every_step_matters.py batching.py overlap.py mnist.py)
TRAININGS := tests/pipeline/test_training.py \
  $(filter-out tests/pipeline/test_training.py $(LONG),$(wildcard tests/pipeline/test_*.py))
# The tests that need a framework run in its image's environment, with pytest beside the image's own packages.
WITH_PYTEST := --with pytest==8.4.2 --with pytest-timeout==2.4.0 --with pytest-xdist==3.8.0 \
  --with hypothesis==6.170.15 -- -m pytest
TENSORFLOW_PYTEST := $(BIN)/fededge env run tensorflow $(WITH_PYTEST)
TORCH_PYTEST := $(BIN)/fededge env run torch $(WITH_PYTEST)
SKLEARN_PYTEST := $(BIN)/fededge env run sklearn $(WITH_PYTEST)
TORCH_TESTS := $(wildcard tests/learners/test_torch*.py tests/steps/test_torch*.py)
SKLEARN_TESTS := $(wildcard tests/learners/test_sklearn*.py tests/steps/test_sklearn*.py)

.PHONY: help setup environments run test test-fast test-long test-cluster test-manifests test-monitoring test-live test-s3 test-docker lint compile lock images images-push sbom clean

help: ## Explain the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup: .venv/ready ## Make the environments: ours in .venv, the steps' in the user's cache (once, 3 GB)
	@$(BIN)/fededge env create tensorflow

environments: setup ## Make those of all images: PyTorch's, scikit-learn's and the servers' too (once, 5 GB more)
	@$(BIN)/fededge env create torch
	@$(BIN)/fededge env create sklearn
	@$(BIN)/fededge env create serving
	@$(BIN)/fededge env create serving-tensorflow

run: setup ## Train: 5 rounds, 10 clients, as the compiled pipeline, on this machine
	$(BIN)/fededge run

test: environments lint ## Run the tests that need neither root nor Debian packages, some ten minutes
	$(PYTEST) $(FAST) $(PARALLEL)
	$(TENSORFLOW_PYTEST) tests/learners tests/steps tests/benchmarks $(CLUSTER_STEPS:%=--ignore=%) $(PARALLEL)
	$(if $(TORCH_TESTS),$(TORCH_PYTEST) $(TORCH_TESTS) $(PARALLEL))
	$(if $(SKLEARN_TESTS),$(SKLEARN_PYTEST) $(SKLEARN_TESTS) $(PARALLEL))
	$(PYTEST) $(TRAININGS) $(PARALLEL)

test-fast: .venv/ready ## Run the tests that take seconds
	$(PYTEST) $(FAST) $(PARALLEL) -x

test-long: environments ## Run the long ones: kills, overlaps, batching, every library and application, comparison
	$(TENSORFLOW_PYTEST) tests/faults $(PARALLEL)
	$(PYTEST) $(LONG) $(PARALLEL)

test-cluster: environments ## Test Jobs, devices, the clients of Kubeflow and Harbor, servers, monitoring; no cluster needed
	$(PYTEST) $(CLUSTER) $(PARALLEL)

test-manifests: .venv/ready ## Check the manifests with everything; needs kubectl, and the network once, for checkov
	FEDEDGE_REQUIRE_KUBECTL=1 FEDEDGE_REQUIRE_CHECKOV=1 $(PYTEST) $(MANIFESTS)

test-monitoring: .venv/ready ## Test with a real Prometheus; needs Debian's prometheus and prometheus-pushgateway
	FEDEDGE_REQUIRE_PROMETHEUS=1 $(PYTEST) tests/monitoring

test-live: .venv/ready ## Test on a Kubernetes without nodes that nobody else uses: FEDEDGE_TEST_KUBECONFIG=its.kubeconfig
	$(if $(FEDEDGE_TEST_KUBECONFIG),,$(error say on which: FEDEDGE_TEST_KUBECONFIG=…))
	FEDEDGE_TEST_KUBECONFIG=$(abspath $(FEDEDGE_TEST_KUBECONFIG)) $(PYTEST) tests/live

test-s3: setup ## Test against a real S3 server; needs root and Debian's ceph-mon ceph-osd radosgw
	FEDEDGE_REQUIRE_S3=1 $(PYTEST) -m "s3 and not docker"
	FEDEDGE_REQUIRE_S3=1 $(TENSORFLOW_PYTEST) tests/store/test_s3_rounds.py

test-docker: setup ## Build the images and train in them; needs root and Debian's docker.io debootstrap docker-registry iptables
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

images-push: .venv/ready ## Push them, or IMAGES='torch', to REGISTRY=harbor.example.org/fededge; digests and bills are in dist/
	$(BIN)/fededge images push $(IMAGES) --registry $(or $(REGISTRY),$(error say where to: make images-push REGISTRY=harbor.example.org/fededge)) \
	  $(if $(TAG),--tag $(TAG)) --digests dist/digests.json --sboms dist/sbom

sbom: .venv/ready ## Write a bill of materials of each image that is built, or of IMAGES, into dist/sbom
	@for name in $(or $(IMAGES),$(notdir $(patsubst %/requirements.lock,%,$(wildcard images/*/requirements.lock)))); do \
	  $(BIN)/fededge images sbom $$name --image fededge-$$name:$(or $(TAG),$(VERSION)) --to dist/sbom/fededge-$$name-$(or $(TAG),$(VERSION)).cdx.json || exit; \
	done

clean: ## Remove what the targets made here; the user's cache and .fededge stay
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or pass PYTHON=…"; exit 1; }
	@echo "Making the control environment in .venv (once, half a minute)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
