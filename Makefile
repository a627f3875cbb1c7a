# One command per job, the same for a person and for CI. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
SHELL := /bin/sh

# Both stamps are newer than pyproject.toml when the environment matches it. The development install contains the
# runtime one, so `make test` also makes `make demo` ready, and not the other way round.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
VLLM := $(VLLM_VENV)/.ready
VLLM_REQUIREMENTS := tests/live/vllm-requirements.txt

CODE := guardmw adapters/guardmw_langgraph tests benchmarks examples

SCENARIO ?=
GUARD ?=
ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup vllm tiny-guard test lint format demo bench wheel clean clean-all

help: ## show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## make .venv with everything development needs

vllm: $(VLLM) ## make .venv-vllm with a real vLLM (CPU build) for the live tests

tiny-guard: $(DEV) $(VLLM) ## train the live tests' small guard; its folder is printed last
	@$(BIN)/python tests/tiny_guard/build.py

test: lint ## lint, type-check and run every test, those against a real vLLM too
	@$(MAKE) --no-print-directory vllm || echo "WARNING: no vLLM could be installed; its live tests will be skipped" >&2
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV) ## ruff, mypy (strict) and pyright on the public API
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/basedpyright --pythonpath $(BIN)/python tests/typing_contract.py

format: $(DEV) ## put the code into shape
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

demo: $(RUNTIME) ## a guarded agent, live; SCENARIO=name GUARD=name ARGS="--help"
	$(BIN)/guardmw demo $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(GUARD),--guard $(GUARD)) $(ARGS)

bench: $(DEV) ## run the benchmarks; figures go to out/
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

wheel: $(DEV) ## build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove caches and build outputs
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find guardmw adapters tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean ## remove .venv and .venv-vllm too
	rm -rf $(VENV) $(VLLM_VENV)

define check_python
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "guardmw needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install --quiet --upgrade pip
endef

$(DEV): pyproject.toml
	$(call check_python,$(VENV))
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(RUNTIME) $(DEV)

$(RUNTIME): pyproject.toml
	$(call check_python,$(VENV))
	$(BIN)/python -m pip install --quiet -e '.[langgraph,otel,vllm]'
	@touch $(RUNTIME)

# The packages taken away are built for another torch and break the imports of transformers; vLLM runs without them.
$(VLLM): $(VLLM_REQUIREMENTS)
	$(call check_python,$(VLLM_VENV))
	@echo "installing vLLM into $(VLLM_VENV): about 3 GB, some minutes"
	$(VLLM_BIN)/python -m pip install -qq --requirement $(VLLM_REQUIREMENTS)
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
