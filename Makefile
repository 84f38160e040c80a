# What a newcomer runs: `make read` and `make test`. Each target installs what it needs into VENV.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: help install read test check format parity benchmark examples clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make a virtual environment and install the package into it

read: $(VENV)/.installed ## read the example images with the checkpoint that ships in the package
	@$(BIN)/trocr read --names examples

test: $(VENV)/.installed-test ## run the tests, in one thread: their tensors are tiny
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.installed-test ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test ## rewrite the code in the format that `make check` wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(VENV)/.installed-test ## compare with transformers at full size (minutes, 6 GB)
	$(BIN)/python scripts/parity.py --output docs/parity.md

benchmark: $(VENV)/.installed-test ## time reading one line at a time against transformers
	$(BIN)/python scripts/benchmark.py

examples: $(VENV)/.installed ## draw the example images anew (needs fonts-dejavu and fonts-liberation)
	$(BIN)/python scripts/make_examples.py

clean: ## remove the virtual environment and what the tools left
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("trocr needs Python 3.11 or newer; call make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes, most of them for torch"

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(VENV)/.installed $@
