# Everything sets itself up: a machine with Python 3.11 (with venv) and make is enough.
PYTHON ?= python3
BIN := .venv/bin
IN_TWO := -n 2 --dist loadscope --no-loadscope-reorder --max-worker-restart 0
EXPERIMENTS := $(sort $(wildcard experiments/table*.py experiments/fig[0-9]*.py)) \
	$(addprefix experiments/,bn_on_rewind.py discrepancies.py eb_criteria.py evidence.py instability.py \
	other_methods.py rewinding.py supplement.py variants.py)

.PHONY: help venv demo experiments-smoke test test-quick test-versions coverage budget docs lint format lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

venv: .venv/ready  ## .venv with the package and all that is below

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "snnlth_jax needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[search,demo,dev,docs]'
	touch $@

demo: venv  ## IMP on real 8x8 digits: a sparse ticket beside dense and random, in a few minutes on two cores
	$(BIN)/snnlth demo

experiments-smoke: venv  ## every table and figure in minutes on digits, and the report: runs/experiments
	failed=0; for script in $(EXPERIMENTS); do $(BIN)/python $$script --scale smoke --figure runs/experiments/figures || failed=1; done; \
	$(BIN)/snnlth report runs/experiments --output runs/experiments && exit $$failed

test: venv  ## the test suite, in two processes; ends with an error when one of them is lost
	$(BIN)/python -m pytest $(IN_TWO)

test-quick: venv  ## the suite without what starts processes or trains for long
	$(BIN)/python -m pytest $(IN_TWO) -m 'not slow and not subprocess and not multihost'

test-versions:  ## the quick suite on each Python from 3.11 that is here, in .venv-versions; a line each
	$(PYTHON) tests/pythons.py

coverage: venv  ## the test suite, and the branches of the library that it reaches; an error below 95 %
	$(BIN)/python -m pytest $(IN_TWO) --cov

budget: .venv-budget/ready  ## kernels and bytes of a step on absent GPUs, against benchmarks/results; compilers of 3 GB
	.venv-budget/bin/python benchmarks/hlo_budget.py --topology h100 --arch vgg16,resnet19 --check

.venv-budget/ready: requirements-gpu-compiler.txt constraints.txt
	$(PYTHON) -m venv .venv-budget
	.venv-budget/bin/pip install --quiet --disable-pip-version-check -r requirements-gpu-compiler.txt
	touch $@

docs: venv  ## the documentation as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: venv  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## let ruff rewrite the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write constraints.txt anew from the newest releases
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet -e '.[search,demo,plots,tensorboard,nir,export,dev,docs]'
	.venv-lock/bin/pip freeze --exclude-editable > constraints.txt
	rm -rf .venv-lock

clean:  ## remove the environment and caches
	rm -rf .venv .venv-budget .venv-versions .pytest_cache .mypy_cache .ruff_cache build *.egg-info
