# `make help` lists the targets. Everything that is built lands in $QUANTOP_CACHE and in .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
export QUANTOP_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quantop
UV := $(QUANTOP_CACHE)/uv/$(UV_VERSION)/bin/uv
SYNCED := .venv/.synced
export PATH := $(CURDIR)/.venv/bin:$(dir $(UV)):$(QUANTOP_CACHE)/bin:$(PATH)
STEP := scripts/step

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	@$(STEP) uv bash -c 'python3 -m venv "$$1" && "$$1/bin/pip" install --quiet uv==$(UV_VERSION)' \
		- $(QUANTOP_CACHE)/uv/$(UV_VERSION)

$(SYNCED): pyproject.toml uv.lock | $(UV)
	@$(STEP) environment $(UV) sync --quiet --frozen --all-extras
	@touch $@

.PHONY: setup
setup: $(SYNCED) ## Make the Python environment in .venv from uv.lock

.PHONY: prerequisites
prerequisites: ## Install the system packages that the local cluster needs (Debian, Ubuntu)
	@$(STEP) prerequisites scripts/prerequisites cluster

.PHONY: check
check: $(SYNCED) ## Formatting, lint, types, import contracts
	@$(STEP) check.format ruff format --check .
	@$(STEP) check.lint ruff check .
	@$(STEP) check.types mypy operator
	@$(STEP) check.imports lint-imports

.PHONY: test
test: $(SYNCED) ## Unit tests
	@$(STEP) test.unit pytest -q
