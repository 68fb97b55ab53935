# Everything runs from a bare machine: Python 3.11 or newer, git, make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check crash adversary scenarios lives differential bench build ways clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make the virtual environment

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[cli,postgres]" --group dev
	@touch $@

demo: $(READY) ## the whole main job on 69,659 real purchases
	@$(BIN)/tallybook demo

test: $(READY) ## all tests (TESTS="-m server" some)
	$(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

check: $(READY) ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p tests -p benchmarks -p tools
	$(BIN)/python -m tools.typecheck
	$(BIN)/lint-imports

crash: $(READY) ## 1,000 kills and 2,000 power cuts (SEED=1 JOBS=2): nothing lost, nothing twice
	$(BIN)/python -m tests.crash --kills 1000 --cuts 2000 --seed $(or $(SEED),1) --jobs $(or $(JOBS),2)

adversary: $(READY) ## 10,000 attacks on a book's files (SEED=1 COUNT=10000 JOBS=2): each is found, or changes no answer
	$(BIN)/python -m tests.adversary --count $(or $(COUNT),10000) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2)

scenarios: $(READY) ## misdeeds in 100 drawn offices (COUNT=100 JOBS=2): the access review finds them, and nothing else
	$(BIN)/python -m tests.scenarios --seeds $(or $(COUNT),100) --jobs $(or $(JOBS),2)

lives: $(READY) ## 5,200 random lives of a loyalty account (SEED=1 COUNT=5200), step by step beside a plain model
	$(BIN)/python -m tests.domain.test_account_machine $(or $(SEED),1) $(or $(COUNT),5200) 50

differential: $(READY) ## both executors over 1,000,000 made-up accounts (SEED=1 COUNT=1000000 JOBS=2 BACKTESTS=--backtests)
	$(BIN)/python -m tests.differential --accounts $(or $(COUNT),1000000) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2) $(BACKTESTS)

bench: $(READY) ## benchmarks beside the stock library and raw SQLite; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

build: $(READY) ## wheel and sdist into dist/
	$(BIN)/python -m build --no-isolation

ways: $(READY) ## install in every way, in empty environments (PYTHONS="python3.11 python3.13")
	$(BIN)/python -m tools.ways $(PYTHONS)

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .hypothesis .benchmarks demo-book
