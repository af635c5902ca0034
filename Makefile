# make setup     .venv with everything that users and developers of skippose need
# make demo      synthetic clips, a short training, and dense against gated in a table
# make test      lint, types and the fast tests
# make test-all  the slow tests too
# make test-environments  the fast tests in the oldest, the newest and other environments; an hour
# make sanitize  the native backend's kernels under AddressSanitizer, UBSan and ThreadSanitizer
# make emulate   the native backend on processors without AVX-512 and without AVX, in qemu
# make lint      ruff and mypy alone
# make clean     remove .venv, build outputs and caches

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.setup-done
# A first choice can be given: make setup PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo $$p; break; }; done)
WORKERS ?= 2
# One thread per worker: the workers themselves fill the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
PIP    := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q

COMPILER = $(or $(filter-out default,$(origin CC)),$(shell command -v cc || command -v gcc || command -v clang))
GET_COMPILER := install one (Debian, Ubuntu: apt-get install build-essential python3-dev; macOS: xcode-select --install)
NO_PACKAGES := { echo "the packages could not be installed: see above. They take a few GB of disk and come from PyPI; where it is not reached, point pip at a mirror (PIP_INDEX_URL=...) or at downloaded files (PIP_FIND_LINKS=...), then make again: it goes on where it stopped" >&2; exit 1; }

.PHONY: setup demo test test-all test-environments sanitize emulate lint clean

setup: $(STAMP)

# The order matters: xtcocotools compiles against the numpy and cython that are already installed, and
# mmpose comes without its dependencies because one of them (chumpy) cannot be built any more.
$(STAMP): pyproject.toml setup.py requirements/build.txt requirements/mmpose.txt requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10, 3.11 or 3.12 found: make setup PYTHON=..." >&2; exit 1; }
	@test -n "$(COMPILER)" || { echo "no C compiler found, which xtcocotools is built with: $(GET_COMPILER), then make again" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no virtual environment: see above (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$(PIP) torch -r requirements/build.txt -r requirements/mmpose.txt -r requirements/dev.txt || $(NO_PACKAGES)
	$(PIP) --no-build-isolation --no-binary xtcocotools xtcocotools || { echo "xtcocotools was not built: see above. It needs the network, a C compiler and Python's headers: $(GET_COMPILER), then make again" >&2; exit 1; }
	$(PIP) --no-deps 'mmpose>=1.1,<1.4' || $(NO_PACKAGES)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/python tools/run_demo.py

test: setup lint
	$(PYTEST) -m "not slow"

test-all: setup lint
	$(PYTEST)

# One set alone: make test-environments SETS=oldest
test-environments:
	$(PYTHON) .ci/environments.py --workers $(WORKERS) $(SETS)

# A compiler of one's own: make sanitize CXX=clang++
sanitize: setup
	CXX=$(CXX) $(BIN)/python tests/backends/native/sanitize.py address thread tiles

# Says so and succeeds where there is no qemu-x86_64.
emulate: setup
	CXX=$(CXX) $(BIN)/python tests/backends/native/sanitize.py emulate

# Needs the environment, but does not bring an existing one up to date.
lint:
	@test -x $(BIN)/ruff -a -x $(BIN)/mypy || $(MAKE) setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy skippose/

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
