# Two commands do everything: `make demo` renders the demo, `make test` tests the project.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_OUT ?= renders/demo
# A file of tests is one process's, for what its tests share.
PYTEST := $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

.PHONY: help demo setup test test-slow test-failed test-postgres chaos check format clean mini

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: setup ## render the demo manifest into renders/demo
	$(BIN)/zs2 render manifests/examples/demo.parquet -o $(DEMO_OUT)

setup: $(VENV)/.runtime ## create .venv and install zs2 into it

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(VENV)/.runtime $@

test: $(VENV)/.dev ## the tests, a quarter of an hour on two cores
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev ## the longer proofs
	$(PYTEST) -m "slow and not soak and not postgres"

test-failed: $(VENV)/.dev ## what failed in the last run of the tests, once more, one after another
	$(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none

test-postgres: $(VENV)/.dev ## a deployed render whose Prefect server is on Debian's PostgreSQL
	$(BIN)/python -m pytest -q -m postgres tests/flows/test_postgres.py

chaos: $(VENV)/.dev ## kill a run's processes in every window, and its power; about half an hour
	$(BIN)/python -m infra.chaos

check: $(VENV)/.dev ## formatting, lint, types, deployment files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m infra.deployment_files

format: $(VENV)/.dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what is built and rendered, not .venv
	rm -rf renders .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
