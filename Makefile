# Each target sets up what it needs: Python 3.11 with pip is enough, no compiler, no linker.
#   make demo    the main job: digits and an ImageNet-sized ResNet-50, compiled, saved, run from a fresh process
#   make test    the suite          make bars    what is too long for it (whole networks, many random graphs, kills)
#   make lint    ruff               make types   mypy --strict
# A part of the suite: make test TESTS=tests/ir ARGS="-x -k capture". JOBS processes run it; JOBS=0 is one, in order.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
TESTS ?= tests
JOBS ?= 2
ARGS ?=

.PHONY: setup demo test bars lint format types clean
setup: $(READY)

# torch comes first and alone, pinned: see the reason in pyproject.toml.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11 with pip" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) is older than Python 3.11; try make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) \
	  || { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(VENV) install pip; }
	@echo "Setting up $(VENV): torch, TVM and the tools, 2 GB on disk (once; it takes minutes)"
	@$(PIP) install -q -c constraints.txt setuptools wheel
	@$(PIP) install -q -c constraints.txt torch==2.13.0
	@PYTHONWARNINGS=ignore $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[compile,dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python examples/digits/demo.py $(ARGS)

test: $(READY)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS) $(ARGS)

bars: $(READY)
	$(BIN)/pytest $(TESTS) -m bars $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy finds the package by its folder's name, and a checkout may have any: hence the link.
types: $(READY)
	@link=$$(mktemp -d) && trap 'rm -rf "$$link"' EXIT && ln -s "$(CURDIR)" "$$link/planish" && \
	bin=$$(cd $(BIN) && pwd) && cd "$$link" && "$$bin/mypy" --config-file planish/pyproject.toml \
	  --cache-dir planish/.mypy_cache planish/*.py planish/ir planish/passes planish/backends

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis tests/.pytest_cache
