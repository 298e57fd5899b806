# Everything a developer types. `make help` lists it.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env demo test lint types pytest light models bench clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

env: $(STAMP) ## Make the environment in .venv (again when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e ".[test]"
	touch $@

demo: env ## Segment a synthetic volume on a local Dask cluster and look at the result
	$(BIN)/orthoflow demo

lint: env ## Style, format and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: env ## Static types
	$(BIN)/mypy --strict orthoflow

# One thread per library: the tests compare bits, and the pool of workers is what uses the cores.
pytest: export OMP_NUM_THREADS = 1
pytest: env ## Tests only; PYTEST_ARGS="-k grid -x" chooses
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# A newer Python brings a newer Zarr than 3.11 can have; torch's pinned build need not exist for it.
LIGHT = .venv-light
light: ## Tests of all that needs no torch, in an environment without it (PYTHON=python3.13)
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python -m pip install --progress-bar off -e ".[light]"
	OMP_NUM_THREADS=1 $(LIGHT)/bin/python -m pytest -p no:cacheprovider -m "not slow" tests/geometry tests/plan tests/stores \
		tests/show tests/test_options.py tests/test_doctor.py tests/models/test_card.py tests/training/test_synthetic.py \
		--ignore tests/geometry/test_exactness.py

test: lint types pytest ## Everything that has to pass

models: env ## Train the bundled demo models again
	$(BIN)/python -m orthoflow.training.demo_models

bench: env ## Measure against peers (makes an environment for each; see benchmarks/README.md)
	$(BIN)/python benchmarks/versus_cellpose.py --setup --quick
	$(BIN)/python benchmarks/versus_cellpose.py masks --quick
	$(BIN)/python benchmarks/versus_empanada.py --setup --quick
	$(BIN)/python benchmarks/versus_monai.py --setup --quick
	$(BIN)/python benchmarks/real_vnc.py

clean: ## Remove what was made, the environment included
	rm -rf $(VENV) $(LIGHT) build dist demo *.egg-info benchmarks/results
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
