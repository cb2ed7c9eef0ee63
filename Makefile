# `make quickstart` shows the product, `make test` checks it; both make what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart down pictures test lint bench

install: $(INSTALLED)

# Torch first and pinned: a bare range may choose a build with several GB of GPU libraries.
$(INSTALLED): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint infra/constraints.txt torch
	$(BIN)/pip install --quiet --constraint infra/constraints.txt --editable '.[test]'
	touch $(INSTALLED)

quickstart: $(INSTALLED)
	$(BIN)/python jobs/quickstart.py up

down: $(INSTALLED)
	$(BIN)/python jobs/quickstart.py down

# The pictures of the README.
pictures: quickstart
	mkdir -p infra/pictures
	cp "$(or $(L2C_HOME),.l2c)"/pictures/*.png infra/pictures/

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile

bench: $(INSTALLED)
	$(BIN)/pytest -s tests/benchmarks
