# Every target sets up the same virtual environment in .venv first. `make` alone lists the targets.
PYTHON ?= python3
# TORCH=cpu takes PyTorch's CPU build; TORCH_INDEX=<URL> takes torch from any other package index.
TORCH ?=
TORCH_INDEX ?= $(if $(filter cpu,$(TORCH)),https://download.pytorch.org/whl/cpu)
# Processes that run tests, seconds that all tests together may take, and more words for pytest.
JOBS ?= 2
LIMIT ?= 1200
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --retries 5
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --benchmark-disable
LINTED := $(wildcard tritonpool kernels tests benchmarks examples)

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH is '$(TORCH)', expected 'cpu' or nothing; name another build with TORCH_INDEX=<URL>)
endif

.PHONY: help install demo test check compile lint format bench bench-compare clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "make %-13s %s\n", $$1, $$2}'
	@echo "PYTHON=python3.12 picks the Python, TORCH=cpu the CPU build of torch, ARGS=... is passed on."

install: $(READY) ## set up .venv and nothing else

$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "No '$(PYTHON)' found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$("$(PYTHON)" -V 2>&1) is too old: tritonpool needs 3.11 or newer; name one with make PYTHON=python3.11." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module: install it (on Debian and Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; }
	@echo "Setting up .venv (once; torch is large) ..."
	@"$(PYTHON)" -m venv .venv
	@$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

demo: $(READY) ## train D-MPNN with and without DiffPool on polymers made on the spot, and compare
	@$(BIN)/tritonpool demo $(ARGS)

test: $(READY) ## run the tests (8 to 13 minutes on 2 cores)
	@timeout $(LIMIT) $(PYTEST) -m "not slow" $(ARGS) || { code=$$?; \
	  [ $$code -ne 124 ] || echo "The tests took longer than $(LIMIT) s; LIMIT=... allows more." >&2; exit $$code; }

check: $(READY) ## run all tests, the slow ones too
	@$(PYTEST) $(ARGS)

compile: $(READY) ## compile every kernel for four GPU targets; no GPU is needed
	@$(BIN)/python -m benchmarks.resources $(ARGS)

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check --quiet $(LINTED)
	@$(BIN)/ruff format --quiet --check $(LINTED)

format: $(READY) ## mend style and formatting
	@$(BIN)/ruff check --quiet --fix $(LINTED)
	@$(BIN)/ruff format --quiet $(LINTED)

bench: $(READY) ## time op, layer and training step against what one would use instead
	@mkdir -p .benchmarks
	@$(BIN)/python -m pytest -q --override-ini python_files='bench_*.py' --benchmark-only \
	  --benchmark-columns=median --benchmark-json=.benchmarks/bench.json \
	  --deselect benchmarks/bench_track.py benchmarks $(ARGS) >.benchmarks/bench.log || \
	  { cat .benchmarks/bench.log; exit 1; }
	@$(BIN)/python -m benchmarks.report .benchmarks/bench.json

bench-compare: $(READY) ## has the op become slower than the committed baseline?
	@mkdir -p .benchmarks
	@$(BIN)/python -m pytest -q --override-ini python_files='bench_*.py' --benchmark-only \
	  --benchmark-json=.benchmarks/track.json benchmarks/bench_track.py >.benchmarks/track.log || \
	  { cat .benchmarks/track.log; exit 1; }
	@$(BIN)/python -m benchmarks.compare .benchmarks/track.json $(ARGS)

clean: ## remove .venv and the caches
	@rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
