# `make help` lists the targets. What is built lands in $QUANTOP_CACHE and in .venv, nowhere else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
export QUANTOP_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quantop
UV := $(QUANTOP_CACHE)/uv/$(UV_VERSION)/bin/uv
SYNCED := .venv/.synced
export PATH := $(CURDIR)/.venv/bin:$(dir $(UV)):$(QUANTOP_CACHE)/bin:$(PATH)
STEP := scripts/step

# CLUSTER=current: the kubeconfig's context in place of the local cluster.
CLUSTER ?= local
# SLOW=1: the slow scenarios too.
SLOW ?=
# ALL=1: the images that the demo does without, too; the slow scenarios need them.
ALL ?= $(SLOW)
NODES ?= 1

PROGRAMS := python3 -m e2e.cluster build
TEST_PROGRAMS := kubernetes etcd s3 helm kubeconform prometheus
ifeq ($(CLUSTER),current)
INSIDE :=
REGISTRY ?= ghcr.io
INSTALL_OPTIONS := --registry $(REGISTRY) $(if $(DIGESTS),--digests $(DIGESTS))
else
INSIDE := e2e/cluster/exec
REGISTRY ?= 10.200.0.10:5000
# The hub is where a scenario runs its fake one; nothing else in the cluster reaches any hub.
INSTALL_OPTIONS := --registry $(REGISTRY) --digests $(QUANTOP_CACHE)/images/digests.json \
	--hub-endpoint http://10.200.0.10:8000
endif

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	@python3 -c 'import ensurepip' 2>/dev/null || $(STEP) venv apt-get install -q -y python3-venv
	@$(STEP) uv bash -c 'python3 -m venv "$$1" && "$$1/bin/pip" install --quiet uv==$(UV_VERSION)' \
		- $(QUANTOP_CACHE)/uv/$(UV_VERSION)

$(SYNCED): pyproject.toml uv.lock | $(UV)
	@$(STEP) environment $(UV) sync --quiet --frozen --all-extras
	@touch $@

.PHONY: setup
setup: $(SYNCED) ## Make the Python environment in .venv from uv.lock

.PHONY: prerequisites
prerequisites: ## Install the system packages that the local cluster needs (Debian, Ubuntu; root)
	@$(STEP) prerequisites python3 -m e2e.cluster prerequisites

.PHONY: generate
generate: $(SYNCED) ## Write CRDs, reference pages and schemas anew from the API types
	@$(STEP) generate python -m quantop.api.generate
	@$(STEP) generate.matrix python -m e2e.conformance.matrix

.PHONY: check
check: $(SYNCED) ## Formatting, lint, types, import contracts, generated files, chart
	@$(STEP) check.format ruff format --check .
	@$(STEP) check.lint ruff check .
	@$(STEP) check.types mypy $(wildcard operator e2e images tests)
	@$(STEP) check.imports lint-imports
	@$(STEP) check.generated python -m quantop.api.generate --check
	@$(STEP) check.matrix python -m e2e.conformance.matrix --check
	@$(STEP) check.programs $(PROGRAMS) $(TEST_PROGRAMS)
	@$(STEP) check.chart pytest -q tests/chart/test_chart_valid.py

.PHONY: test
test: $(SYNCED) ## Unit tests, and tests against a real kube-apiserver and etcd
	@$(STEP) test.programs $(PROGRAMS) $(TEST_PROGRAMS)
	@$(STEP) test pytest -q

.PHONY: test-toolchains
test-toolchains: export ALL := 1
test-toolchains: images ## The tests that need a toolchain, in the images that hold them
	@$(STEP) test.toolchains python -m tests.toolchains -q

.PHONY: images
images: $(SYNCED) ## Build the images, with ALL=1 the demo's and all others; with PUSH=1 push them to REGISTRY, too
	@$(STEP) images$(if $(PUSH),.push) python -m images.build $(if $(ALL),--all) $(if $(PUSH),--registry $(REGISTRY) --push \
		$(if $(INSIDE),--push-prefix $(INSIDE)))

.PHONY: programs
programs: ## Build the local cluster's programs
	@$(STEP) cluster.programs $(PROGRAMS)

.PHONY: cluster
ifeq ($(CLUSTER),current)
cluster: $(SYNCED)
	@python -m e2e.needs
else
cluster: $(SYNCED) prerequisites ## Bring the local cluster up with the operator in it, to stay
	@# Side by side: the one waits for the network while the other computes.
	@$(MAKE) --no-print-directory -j2 programs images
	@$(STEP) cluster.up python3 -m e2e.cluster up --nodes $(NODES)
	@$(MAKE) --no-print-directory images PUSH=1
endif
	@$(STEP) operator $(INSIDE) python -m e2e.install $(INSTALL_OPTIONS)

.PHONY: cluster-down
cluster-down: ## Take the local cluster away
	@$(STEP) cluster.down python3 -m e2e.cluster down

.PHONY: demo
demo: cluster ## Everything from nothing: three manifests become three served models
	@$(STEP) demo $(INSIDE) python -m e2e.demo $(if $(filter current,$(CLUSTER)),--current)

.PHONY: e2e
e2e: cluster ## The scenarios on the running cluster; SLOW=1 for the slow ones, too
	@$(STEP) e2e.lifecycle pytest -q e2e/lifecycle
	@$(STEP) e2e $(INSIDE) pytest -q $(if $(SLOW),,-m 'not slow') e2e/scenarios
	@$(MAKE) --no-print-directory conformance SAMPLE=1

.PHONY: bench
bench: cluster ## Measurements on the running cluster, printed as ratios
	@$(STEP) bench $(INSIDE) python -m e2e.benchmarks

.PHONY: conformance
conformance: cluster ## Every way of every built-in Quantizer (with ALL=1: all images); ROW=openvino/INT4 for some, SAMPLE=1 for the quick ones, WORKERS=3 for as many at a time
	@$(STEP) conformance $(INSIDE) pytest $(if $(WORKERS),-v -n $(WORKERS) --dist=worksteal,-q $(if $(SAMPLE),,-s)) \
		$(if $(SAMPLE),--sample) e2e/conformance --row=$(ROW)

.PHONY: elsewhere
elsewhere: cluster ## Collect in FOLDER what engines for other hardware would serve: docs/guides/engines-elsewhere.md
	@$(STEP) elsewhere $(INSIDE) python -m e2e.elsewhere.collect $(or $(FOLDER),build/elsewhere)

.PHONY: quality-bench
quality-bench: export ALL := 1
quality-bench: cluster ## Spoil artifacts in every way we know, and see that none passes the gate
	@$(STEP) quality-bench $(INSIDE) python -m e2e.benchmarks quality

.PHONY: clean
clean: ## Remove what was built in the repository; the cache stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
