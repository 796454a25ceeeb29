# Every target makes the virtual environment it needs and uses it again the next time, as long as pyproject.toml
# and the place of the checkout stay the same. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# More arguments for pytest, for example `make test ARGS="-k thresholds"`.
ARGS ?=

# Processes that tests run in side by side, each taking whole files; 0 runs them in one, which a debugger needs.
PROCESSES ?= auto
PYTEST = $(BIN)/python -m pytest --numprocesses $(PROCESSES) --maxprocesses 4 --dist loadfile

# More options of `ortoscope-server serve` for the demo, for example `make demo SERVE="--workers 1"`.
SERVE ?=

# Scripts that `make bench` runs, one after the other, each in its own process.
BENCHMARKS := benchmarks/dissection_overhead.py benchmarks/backward_overhead.py benchmarks/engine_overhead.py \
	benchmarks/workers_scaling.py benchmarks/interactive_latency.py benchmarks/scale_simulation.py \
	benchmarks/visualization_step.py benchmarks/visualization_latency.py benchmarks/atlas_collection.py \
	benchmarks/atlas_layout.py benchmarks/atlas_icons.py benchmarks/atlas_viewer.py

# ONNX Runtime sends usage data unless this is set before it is imported.
export ORT_DISABLE_TELEMETRY := 1
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba

# A stamp says what is installed, and from which pyproject.toml: a change of either gives it another name.
KEY := $(shell (pwd; cat pyproject.toml) | cksum | cut -d ' ' -f 1)
DEMO := $(VENV)/.installed/demo-$(KEY)
DEVELOPMENT := $(VENV)/.installed/development-$(KEY)
# The environment for development holds all that the demo needs.
DEMO_OR_MORE := $(firstword $(wildcard $(DEVELOPMENT)) $(DEMO))

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint protos bench clean

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: $(DEMO_OR_MORE) ## Dissects a real network into demo-output/index.html; SERVE="…" are options of the server.
	@$(BIN)/python demo/run.py demo-output $(SERVE)

test: $(DEVELOPMENT) ## Runs all tests but the long ones; ARGS="…" are passed to pytest.
	@$(PYTEST) $(ARGS)

test-long: $(DEVELOPMENT) ## Runs the long tests alone.
	@$(PYTEST) --long -m long $(ARGS)

lint: $(DEVELOPMENT) ## Checks style, types and protos.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python protos/generate.py --include .cache/googleapis
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos

protos: $(DEVELOPMENT) ## Writes the Python stubs of protos/ anew.
	$(BIN)/python protos/generate.py

bench: $(DEVELOPMENT) ## Runs the benchmarks.
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done

clean: ## Removes what the targets made, except the environment (.venv).
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist demo-output
	find clients service tests protos benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(DEMO): EXTRAS := server,cluster,demo
$(DEVELOPMENT): EXTRAS := server,cluster,demo,dev
$(DEMO) $(DEVELOPMENT):
	@test -x $(BIN)/pip || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "Ortoscope needs Python 3.11 or newer, and '$(PYTHON)' is not that." \
				"Name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
		$(PYTHON) -m venv $(VENV); }
	@echo "Installing ortoscope[$(EXTRAS)] into $(VENV); this happens once and takes a minute or more." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@rm -rf $(@D) && mkdir -p $(@D) && touch $@
