# What fedbound is installed, run and tested by. `make help` lists it.
#
# Variables, given on the command line (make study MPI=site):
#   PYTHON       interpreter, 3.11 or newer, that .venv is made from               (python3)
#   MPI          embedded: MPICH comes as a wheel; site: the MPI that is loaded    (embedded)
#   TORCH_INDEX  package index that torch comes from, and torch alone. Empty: the index that pip uses anyway, which on Linux
#                has the CUDA build. CPU only: https://download.pytorch.org/whl/cpu
#                A certain CUDA:      https://download.pytorch.org/whl/cu130
#   STUDY        the study: a file, or files in order, each changing what those before it say
#   ARGS         further arguments of snakemake or pytest
#   WORKERS      processes that share the tests of `make test`                             (2)

PYTHON ?= python3
MPI ?= embedded
TORCH_INDEX ?=
STUDY ?= config/config.yaml
ARGS ?=
WORKERS ?= 2
VENV_FLAGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

ifeq ($(filter embedded site,$(MPI)),)
$(error MPI is '$(MPI)'; say MPI=embedded or MPI=site)
endif

VENV := .venv
BIN := $(VENV)/bin
# Rules call `fedbound` and `mpiexec` from PATH; what is installed in the user's home must not leak in.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME

CONSTRAINTS := envs/constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXTRAS := workflow,train,privacy,report,codecs
TORCH := $(shell grep '^torch==' $(CONSTRAINTS))

# Each step leaves a stamp, so that a second call has nothing to do.
STAMP_VENV := $(VENV)/.made
STAMP_TORCH := $(VENV)/.torch
STAMP_INSTALL := $(VENV)/.installed-$(MPI)
STAMP_TEST := $(VENV)/.test-tools

# Intel's MPI, for tests that put ranks on two of the sandbox's nodes, where the embedded MPICH now and then fails.
STAMP_IMPI := .impi/.made

SNAKEMAKE := $(BIN)/snakemake --workflow-profile workflow/profiles/default
PYTEST := $(BIN)/python -m pytest

# The name under results/ of a study: that of the last file that gives one.
define study_name
$$($(BIN)/python -c "import sys, yaml; print([y['study'] for y in (yaml.safe_load(open(f)) for f in sys.argv[1:]) if 'study' in y][-1])" $(1))
endef

.PHONY: help
help:
	@echo "make study       install into .venv and run a study: $(STUDY)"
	@echo "make install     install into .venv only"
	@echo "make test        run the tests (those of Slurm and whole studies aside)"
	@echo "make test-slurm  run the tests that start a private Slurm (root; apt-get install slurm-wlm munge)"
	@echo "make smoke       run the smallest study with all stages, and the tests of whole studies"
	@echo "make simgrid     build and install SimGrid, about ten minutes (apt-get install cmake g++ libboost-dev)"
	@echo "make lint        check style, types and the workflow"
	@echo "make constraints write the versions in .venv to $(CONSTRAINTS)"
	@echo "make clean       delete .venv and caches; results/ and the built SimGrid stay"
	@sed -n 's/^#   /  /p' Makefile | sed -n '1,/WORKERS/p'

# --- install -----------------------------------------------------------------------------------------------------------

.PHONY: install
install: $(STAMP_INSTALL)

$(STAMP_VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is not Python 3.11 or newer; name one by PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV_FLAGS) $(VENV)
	@touch $@

# A step of its own: TORCH_INDEX has torch and what it needs, and nothing else should come from there. (The pinned
# versions of what it needs may be missing there; the next step puts them in.)
$(STAMP_TORCH): $(STAMP_VENV) $(CONSTRAINTS)
	$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),-c $(CONSTRAINTS))
	@touch $@

$(STAMP_INSTALL): $(STAMP_TORCH) $(CONSTRAINTS) pyproject.toml
	@rm -f $(VENV)/.installed-*
	$(PIP) -c $(CONSTRAINTS) -e ".[$(EXTRAS)$(if $(filter embedded,$(MPI)),$(comma)mpi)]"
	$(if $(filter site,$(MPI)),$(BIN)/python -m pip uninstall --quiet --yes mpich)
	@$(BIN)/python -c 'from mpi4py import MPI; print("MPI:", *MPI.Get_library_version().splitlines()[0].split())' || \
	  { echo "no MPI library was found: load the site's module (or set MPI4PY_LIBMPI), or use MPI=embedded" >&2; exit 1; }
	@touch $@

comma := ,

$(STAMP_TEST): $(STAMP_INSTALL)
	$(PIP) -c $(CONSTRAINTS) -e ".[test]"
	@touch $@

.PHONY: simgrid
simgrid: $(STAMP_INSTALL)
	@envs/simgrid.sh $(CURDIR)/$(BIN)/python $(CURDIR)/.wheelhouse

# --- run ---------------------------------------------------------------------------------------------------------------

.PHONY: study
study: $(STAMP_INSTALL)
	@$(BIN)/fedbound check $(STUDY)
	$(SNAKEMAKE) $(ARGS) --configfile $(STUDY)
	@$(BIN)/fedbound summary "results/$(call study_name,$(STUDY))/study.h5"

# --- test --------------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(STAMP_TEST)
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slurm and not smoke" -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-slurm
test-slurm: $(STAMP_TEST) $(STAMP_IMPI)
	$(PYTEST) -m slurm $(ARGS)

$(STAMP_IMPI): | $(STAMP_TEST)
	$(PYTHON) -m venv --clear .impi
	.impi/bin/python -m pip install --quiet --disable-pip-version-check --no-deps impi-rt==2021.18.1
	@touch $@

.PHONY: smoke
smoke: $(STAMP_TEST)
	$(SNAKEMAKE) --configfile config/config.yaml config/smoke.yaml
	@$(BIN)/fedbound summary "results/$(call study_name,config/config.yaml config/smoke.yaml)/study.h5"
	$(PYTEST) -m "smoke and not slurm" $(ARGS)

.PHONY: lint
lint: $(STAMP_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# --- keep --------------------------------------------------------------------------------------------------------------

# pip names the build of torch (+cpu) that this machine happens to have, and its CUDA build the libraries it brings: others
# may need others.
.PHONY: constraints
constraints: $(STAMP_TEST)
	@{ sed -n '/^#/p' $(CONSTRAINTS); \
	   $(BIN)/python -m pip freeze --exclude-editable --exclude fedbound | \
	   sed -E '/^#/d; s/\+[a-z0-9.]+$$//; /^(nvidia-|cuda-|triton|simgrid|pybind11|setuptools|wheel|pip)[-=]/d'; } \
	  >$(CONSTRAINTS).new && mv $(CONSTRAINTS).new $(CONSTRAINTS)

.PHONY: clean
clean:
	rm -rf $(VENV) .impi build dist src/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
