# `make quickstart` shows the product, `make test` checks it; both make what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

SHIPPED := l2c_ray/evaluation/embedded/schedules
DIT := digits-dit-ddim-20
DIT_50 := digits-dit-ddim-50
UVIT := digits-uvit-dpm-solver-2-20

.PHONY: install quickstart down pictures schedules comparisons test faults lint bench

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

# The pictures of the READMEs.
pictures: quickstart
	mkdir -p infra/pictures
	cp "$(or $(L2C_HOME),.l2c)"/pictures/*.png infra/pictures/

# The schedules that ship in the package, learned anew: within budgets, and by the paper's loss.
schedules: $(INSTALLED)
	rm -rf $(SHIPPED)
	$(BIN)/l2c learn jobs/configs/digits-frontier.toml --out $(SHIPPED)/$(DIT)
	$(BIN)/l2c learn jobs/configs/digits-frontier.toml --set sampler.steps=50 --set 'router.budget=[0.7,0.5,0.35,0.25]' \
	  --set training.iterations=240 --out $(SHIPPED)/$(DIT_50)
	# It only leads to the others: 0.5 errs less.
	rm $(SHIPPED)/$(DIT_50)/learned-0.700.json
	$(BIN)/l2c learn jobs/configs/digits-uvit-frontier.toml --out $(SHIPPED)/$(UVIT)
	$(BIN)/l2c learn jobs/configs/digits.toml --out $(SHIPPED)/$(DIT)
	$(BIN)/l2c learn jobs/configs/digits-fast.toml --out $(SHIPPED)/$(DIT)
	for weight in 8e-5 4.5e-4 1e-3; do \
	  $(BIN)/l2c learn jobs/configs/digits-uvit.toml --set router.lambda=$$weight --out $(SHIPPED)/$(UVIT) || exit 1; \
	done

# The results in tests/benchmarks/README.md: tables, JSON and pictures of both embedded models.
comparisons: $(INSTALLED)
	$(BIN)/l2c compare digits-dit --out infra/comparisons/digits-dit
	$(BIN)/l2c compare digits-uvit --images 256 --out infra/comparisons/digits-uvit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What shares the cluster goes to one process, and first; see tests/conftest.py.
TESTS := $(BIN)/pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test: lint
	$(TESTS)

# Long outages, and every reader of files from outside on twenty times as many damaged ones.
faults: $(INSTALLED)
	$(TESTS) tests/faults
	L2C_FUZZ_EXAMPLES=2000 $(TESTS) -m fuzz tests/unit

bench: $(INSTALLED)
	$(BIN)/pytest -s tests/benchmarks
