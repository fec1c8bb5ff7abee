# `make` lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## Make .venv with rhobench in it.

demo: install  ## Sweep rho on generated scenes: four runs, the Pareto front, a page. About ten minutes.
	$(BIN)/rhobench run demo

test: $(VENV)/.installed-dev  ## Install what the tests need and run them.
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev  ## Linter, formatter and type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform cuda_ops dashboards experiments

bench: install  ## Time deformable attention on this machine. About 25 minutes on two cores.
	$(BIN)/python -m rhobench.ops.bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
