# Two words set everything up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `train` is what a user installs; `dev` is what the checks need.
STAMP := $(VENV)/.installed

.PHONY: demo test check bench clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "twotower needs Python 3.11 or newer; set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train]"
	touch $@

$(VENV)/.dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

demo: $(STAMP)
	$(BIN)/twotower demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow"
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All rows that are new or have changed, or those named: make bench ROWS="gowalla throughput". Peers have environments of their own under
# .bench, made where a row needs them.
ROWS ?=
bench: $(STAMP) .bench/own/.installed
	.bench/own/bin/python -m benchmarks run $(ROWS)

.bench/%/.installed: benchmarks/peers/%.txt constraints.txt
	$(PYTHON) -m venv .bench/$*
	.bench/$*/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.bench/$*/bin/python -m pip install --quiet --requirement $<
	if [ -f benchmarks/peers/$*.alone.txt ]; then .bench/$*/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers/$*.alone.txt; fi
	touch $@

clean:
	rm -rf $(VENV) .bench .mypy_cache .pytest_cache .ruff_cache dist
