# The study in two commands: `make repro` runs it, `make test` tests it. `make help` lists the rest.
# Needs Python 3.11 or later, git and make; everything else goes into $(VENV).

VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# dvc.yaml says `python`: let it be this environment's.
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test smoke docs lab lint

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(STAMP) ## run the study: install if needed, then every step that is out of date
	@# A downloaded archive has no .git, which DVC must be told.
	@test -e .git || $(BIN)/dvc config --local core.no_scm true
	$(BIN)/python -m cxrtrek_lib.params
	$(BIN)/dvc repro
	$(BIN)/python -m cxrtrek_lib.readme

test: $(STAMP) ## run the whole test suite, the pipeline at smoke size included
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

smoke: $(STAMP) ## run the whole pipeline at smoke size in a scratch copy (minutes)
	$(BIN)/python -m pytest -s -m smoke tests/test_smoke.py

docs: $(STAMP) ## write what is generated: README's numbers, docs/parameters.md
	$(BIN)/python -m cxrtrek_lib.readme
	$(BIN)/python -m cxrtrek_lib.parameter_reference

lab: $(STAMP) ## open JupyterLab on notebooks/explore.ipynb, the others beside it; needs no network
	@# Committed notebooks name no kernel: .jupyter lets JupyterLab take the one there is, and fetch no news.
	JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab notebooks/explore.ipynb

lint: $(STAMP) ## check style: ruff, and no outputs in notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id --extra-keys "$(STRIP)" notebooks/*.ipynb

# The same keys as in .pre-commit-config.yaml and tests/test_notebooks.py.
STRIP := metadata.papermill cell.metadata.papermill metadata.language_info metadata.kernelspec

# The stamp is touched last, so a broken installation is taken up again and a finished one costs nothing.
$(STAMP): requirements.txt requirements-data.txt pyproject.toml
	@test -x $(BIN)/python || for python in python3.11 python3.12 python3.13 python3; do \
	  $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    && exec $$python -m venv $(VENV); \
	done; \
	test -x $(BIN)/python || { echo "make: no Python 3.11 or later with venv on PATH; install it (Debian: python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-data.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)
