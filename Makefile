# make setup    create .venv and install the tested set (nothing happens when nothing changed)
# make demo     set up, then run the demonstration
# make test     set up, then style, types and tests
# make check    style and types only
# make peers    create .venv-peers, which benchmarks/peers compares with (never needed otherwise)
# make clean    remove caches and build outputs (runs/ and .venv stay); make distclean removes both .venv too
#
#   PYTHON=python3.12    which Python makes .venv (3.11 or newer)
#   TORCH_INDEX=URL      take torch from this index first, for example the CPU build on a Linux machine without a GPU:
#                        make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   JOBS=2               test processes
#   PYTEST_ARGS=...      more arguments for pytest

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log
PEERS := .venv-peers
JOBS ?= 2
TORCH_INDEX ?=
PYTEST_ARGS ?=
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
            $$p -c '$(IS_NEW_ENOUGH)' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
PIP := $(BIN)/python -m pip --no-color --disable-pip-version-check

.PHONY: help setup demo test check peers clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/pellucid demo

check: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# One thread for each test process: more would fight over the cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# A Python that is new enough and has pip, whether in an existing .venv or in a new one.
# A torch that is already there is kept as it is, build and version: the other packages are resolved around it.
$(STAMP): pyproject.toml constraints.txt
	@usable() { $(BIN)/python -c '$(IS_NEW_ENOUGH)' 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1; }; \
	if ! usable; then \
	  python='$(PYTHON)'; \
	  $$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { \
	    echo "setup: Pellucid needs Python 3.11 or newer and '$$python' is not one; install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  said=$$($$python -m venv $(VENV) 2>&1) && usable || { \
	    echo "setup: '$$python' could not make a working $(VENV) ($$(echo "$$said" | grep -v '^ *$$' | tail -n 1)); on Debian and Ubuntu install python3-venv, then: make distclean setup" >&2; exit 1; }; \
	fi
	@failed() { \
	  cause=$$(grep -E '^ *ERROR: ' $(LOG) | grep -v 'ERROR: Exception:' | tail -n 1 | sed 's/^ *ERROR: //'); \
	  [ -n "$$cause" ] || cause=$$(grep -vE '^ *$$|^WARNING' $(LOG) | tail -n 1); \
	  echo "setup: could not install $$1 ($${cause:-pip gave no reason}): this step downloads packages, so check the network, the proxy (HTTPS_PROXY) and the free disk, then run the same make command again; pip's full output is in $(LOG)." >&2; \
	  exit 1; }; \
	torch() { $(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null; }; \
	: > $(LOG); \
	tested=$$(sed -n 's/^torch==//p' constraints.txt); \
	if [ -z "$$(torch)" ] && [ -n "$(TORCH_INDEX)" ]; then \
	  echo "setup: installing torch $$tested from $(TORCH_INDEX)"; \
	  $(PIP) install --no-deps --index-url "$(TORCH_INDEX)" "torch==$$tested" >>$(LOG) 2>&1 || failed "torch $$tested from $(TORCH_INDEX)"; \
	elif [ -z "$$(torch)" ] && [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null; then \
	  echo "setup: no NVIDIA GPU seen; the usual torch for Linux brings several GB of CUDA libraries. The small CPU build:"; \
	  echo "         make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu"; \
	fi; \
	found=$$(torch); \
	case "$$found" in \
	  "" | "$$tested" | "$$tested"+*) ;; \
	  *) echo "setup: keeping torch $$found that is installed; the tested version is $$tested" ;; \
	esac; \
	sed "s/^torch==.*/torch==$${found:-$$tested}/" constraints.txt > $(VENV)/constraints.txt; \
	echo "setup: installing into $(VENV), some minutes the first time (log: $(LOG))"; \
	$(PIP) install -c $(VENV)/constraints.txt -e ".[dev,hf]" >>$(LOG) 2>&1 || failed "the packages of pyproject.toml"; \
	touch $(STAMP); \
	echo "setup: done; try $(BIN)/pellucid --help"

# Its own packages, which may want other versions than ours: benchmarks start it as a process and exchange files.
peers: $(PEERS)/.installed

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv $(PEERS)
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  $(PEERS)/bin/python -m pip install -q --no-deps --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' $<)"; \
	fi
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(PEERS)
