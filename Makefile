# `make train` and `make test` need Python 3.11 to 3.13 and nothing else.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	then echo $$p; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-all train test test-slow test-data test-browser-tools browser lint docs bench results dist

help:
	@echo "make train      set up, train a DCGAN on the embedded emoji, leave pictures in runs/"
	@echo "make test       set up, run the tests"
	@echo "make test-slow  run all tests, including those that take minutes"
	@echo "make setup-all  set up with every extra, which some tests need"
	@echo "make test-data  install real pictures that some tests need (Debian packages, as root)"
	@echo "make test-browser-tools  install what tests of web pages need (Debian and npm packages, as root)"
	@echo "make lint       check style and types with ruff and mypy"
	@echo "make docs       build the documentation site in build/website/site"
	@echo "make bench      time the engine, the reading of images, and the metrics"
	@echo "make dist       build the wheel and the source distribution"

setup: $(VENV)/.ready

# The dev extra is included so that train and test share one environment. uv is faster than pip, and
# fetches a Python if there is none.
UV := $(shell command -v uv)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --quiet

$(VENV)/.ready: pyproject.toml constraints.txt
ifdef UV
	uv venv --quiet --allow-existing --seed --python "$(or $(PYTHON),3.12)" $(VENV)
else
	@test -n "$(PYTHON)" || { echo "ganzoo needs Python 3.11, 3.12 or 3.13: install one or uv, or set PYTHON=/path/to/it." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
endif
	$(INSTALL) --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Sweeps, Hugging Face, wandb's workspaces and more: their tests are skipped without.
setup-all: setup
	$(INSTALL) --constraint constraints.txt --editable ".[all]"

train: setup
	$(BIN)/python -m ganzoo.train

# One test file at a time on each core.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --durations 20

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m "slow or not slow"

# Tests that need these packages are skipped if they are not installed.
test-data:
	apt-get update -qq
	apt-get install -qq --no-install-recommends dataset-fashion-mnist lomiri-wallpapers-16.04

# Tests that open pages in a browser are skipped without.
test-browser-tools: browser setup
	$(BIN)/python -m ganzoo.prepare playground

# Debian's npm does not go with a Node.js from elsewhere, which brings its own.
NODE = $(if $(shell command -v npm),,nodejs npm)

browser:
	apt-get update -qq
	apt-get install -qq --no-install-recommends chromium $(NODE)
	npm install --silent --prefix tests/browser --no-package-lock --no-audit --no-fund

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# Strictly: a link to nowhere fails.
docs: setup
	$(INSTALL) --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m website.build

# Other projects' training scripts and ours for the same time; PEERS is a folder of their checkouts.
# For each seed, 14 programs of MINUTES of one core each and 9 of two minutes; and a minute to score each.
PEERS := peers
MINUTES := 5
CONTEST := $(BIN)/python benchmarks/contest.py emoji64 emoji32 fashion translation
results: setup
	$(INSTALL) kornia einops adabelief-pytorch fire retry h5py imageio dominate
	$(CONTEST) --peers $(PEERS) --minutes $(MINUTES)
	$(BIN)/python benchmarks/contest.py augmentation --minutes 2
	$(CONTEST) augmentation --score
	$(CONTEST) augmentation --table docs/results

bench: setup
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/metrics.py --images 500
	$(BIN)/python benchmarks/pggan.py

dist: setup
	$(BIN)/python -m build
