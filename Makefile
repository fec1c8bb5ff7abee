# Running make without arguments lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs bench

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Create .venv and install rhobench into it.

demo: install  ## Train on generated images, measure at four values of rho, write a page. 5 to 8 minutes on two cores.
	$(BIN)/rhobench run demo

test: $(VENV)/.installed-dev  ## Install the test dependencies and run the tests. About 20 minutes on two cores.
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

check: $(VENV)/.installed-dev  ## Run the linter, the formatter and the type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform cuda_ops dashboards experiments

docs: $(VENV)/.installed-docs  ## Build the documentation site in build/site, with warnings as errors. About 20 seconds.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: install  ## Time deformable attention on this machine. About 25 minutes on two cores.
	$(BIN)/python -m rhobench.ops.bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(VENV)/.installed $@
