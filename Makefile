# make demo      train on real digits, evaluate, explain: about a minute after installation
# make test      lint and the quick tests        make test-all   all tests
# make lint      style, types, import contract   make clean      remove .venv and caches
#
# Needs Python 3.11 or later with pip and venv. Another interpreter: make demo PYTHON=python3.12
# Everything is installed into .venv; a later make installs again only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
# Relative, and called as `python -m`, so that the path of this folder may hold spaces and 中文, and be long.
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip --disable-pip-version-check install -c constraints.txt
AGAIN = make $(MAKECMDGOALS) PYTHON=/path/to/python3.12

.PHONY: demo test test-all lint clean
.NOTPARALLEL:

demo: $(VENV)/installed-train
	$(RUN) convcraft demo

# The tests' networks are tiny: one thread is as quick as two, and steady when other work shares the machine. So each
# core runs a process of its own, which takes whole files, since tests of one file share what they have trained.
test test-all: export OMP_NUM_THREADS ?= 1

test: lint
	$(RUN) pytest -n auto --dist loadfile -m "not slow"

test-all: lint
	$(RUN) pytest

lint: $(VENV)/installed-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/python -c "from importlinter.cli import lint_imports_command as run; run()" --no-logo

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist src/convcraft.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The test extras contain the train extras: after `make test`, `make demo` has nothing to install.
$(VENV)/installed-test: $(VENV)/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[test]"
	touch $(VENV)/installed-train $@

$(VENV)/installed-train: $(VENV)/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[train]"
	touch $@

# A .venv that is already there and has a fitting Python and pip is kept.
$(VENV)/made:
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or later, or say where it is: $(AGAIN)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1), convcraft needs 3.11 or later. Name another: $(AGAIN)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2> /dev/null || { \
	  echo "$(PYTHON) has no venv module. Debian and Ubuntu have it in python3-venv (apt install python3-venv)." >&2; exit 2; }
	$(VENV)/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	  || "$(PYTHON)" -m venv $(VENV)
	touch $@
