# make quickstart   trains, evaluates and shows an agent in minutes on a CPU
# make test         what every change must pass; make test-all adds slow tests and those that need torch
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
INSTALLED := $(VENV)/.installed
INSTALLED_ALL := $(VENV)/.installed-all
TORCH ?= torch
RUN ?= runs/quickstart
COVERAGE_FLOOR := 85

export JAX_PLATFORMS ?= cpu

.PHONY: help venv quickstart test test-all lint format bench clean

help:
	@echo "targets: venv quickstart test test-all lint format bench clean"

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@

$(INSTALLED_ALL): $(INSTALLED)
	$(PIP) $(TORCH) --editable '.[dev,mllm]'
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/r1jax train configs/quickstart.py --run $(RUN)
	$(BIN)/r1jax evaluate configs/quickstart.py --checkpoint $(RUN)
	$(BIN)/r1jax synth r1jax/assets/photos/test --mixes noise+jpeg -o $(RUN)/damaged --overwrite
	$(BIN)/r1jax restore $(RUN)/damaged/noise+jpeg/dogs.png --agent $(RUN) -o $(RUN)/restored.png --overwrite
	$(BIN)/r1jax report $(RUN)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m 'not slow and not torch' --cov --cov-fail-under=$(COVERAGE_FLOOR)

test-all: $(INSTALLED_ALL)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/reward_overlap.py
	$(BIN)/python benchmarks/deqa.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find r1jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
