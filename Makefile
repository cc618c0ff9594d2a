# Every target that needs the environment creates it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup browser demo test test-slow soak fuzz check format docs wheel clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) has no venv module: install it (Debian: apt install python3-venv) or set PYTHON=" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## Create the environment in .venv, with the pinned versions of constraints.txt

browser: $(READY)  ## Install Chromium, in which the report is tested (Debian: as root)
	@command -v chromium >/dev/null \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || $(BIN)/playwright install --with-deps chromium

demo: $(READY)  ## Train a plain and a time-stepped network side by side, and fold (two minutes)
	$(BIN)/timestepper demo

test: $(READY)  ## Run all tests but the slow ones, one on each core (minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(READY)  ## Run the tests that take longer
	$(BIN)/python -m pytest -m slow

soak: $(READY)  ## Kill a training at 100 moments and compare its end with an unbroken one's (minutes)
	$(BIN)/python -m pytest -m slow tests/training/test_kills.py

fuzz: $(READY)  ## Try a thousand random recipes, files, weights and networks of each kind (an hour)
	$(BIN)/python -m pytest --numprocesses auto --hypothesis-profile fuzz -m '' \
	  tests/fuzz tests/stepping/test_random_networks.py

check: $(READY)  ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache
