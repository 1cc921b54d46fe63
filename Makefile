# The two commands of the README are `make book` and `make test`; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LAB := $(VENV)/.lab

# Data files for machines without internet, where such a folder lies beside the checkout.
ifeq ($(SAMLIB_DATA),)
ifneq ($(wildcard ../shared/data/.),)
export SAMLIB_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help book test lab app quick bench lint clean constraints

help: ## list what make can do
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

book: $(READY) ## train, execute every notebook, build the book (PROFILE=quick)
	@$(BIN)/python book/build.py --profile $(PROFILE)

test: $(LAB) ## the whole test suite, a file after the other in each of two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: $(LAB) ## the notebooks in JupyterLab, which is installed on first use
	@$(BIN)/jupyter lab --ServerApp.root_dir=notebooks

app: $(LAB) ## the explorers as an app, by voila
	@$(BIN)/voila notebooks/explorer.ipynb

quick: $(READY) ## the tests that take seconds: a developer's inner loop
	@$(BIN)/python -m pytest -q -n 2 -m "not slow"

bench: $(READY) ## speed, as ratios measured side by side
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lint: $(READY) ## ruff, the layers of imports, and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache && $(BIN)/mypy

clean: ## remove the built book (trained models stay in the cache)
	rm -rf book/build book/notebooks book/api/generated

constraints: $(READY) ## write the versions installed now into constraints.txt
	@$(BIN)/pip freeze --exclude-editable | grep -viE '^(nvidia|cuda|triton)' > constraints.txt

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; one to five minutes, mostly torch) ..."
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "samlib needs Python 3.11 to 3.13; run make with PYTHON=/path/to/one."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --progress-bar off --disable-pip-version-check --prefer-binary \
		-c constraints.txt -e '.[book,test]' 2>&1 | tee $(VENV)/install.log \
		| grep --line-buffered -oE '^(Collecting [^ ]+|Building .*|Installing .{0,60}|ERROR.*)' || { tail -20 $(VENV)/install.log; exit 1; }
	@touch $@ && echo "Ready."

# A test opens a notebook in JupyterLab; where that cannot be installed it is skipped.
$(LAB): $(READY)
	@$(BIN)/pip install -q --disable-pip-version-check --prefer-binary -c constraints.txt -e '.[lab]' && touch $@ \
		|| echo "JupyterLab could not be installed; the rest works without it."
