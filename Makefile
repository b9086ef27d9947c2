# What a contributor types. `make` or `make help` lists it.
#
# Any of these works as the first command in a fresh clone, on a machine with make and Python 3.11 or newer: what it needs is installed
# from the hash-pinned files in requirements/ into .venv (or .venv-demo) first. A stamp file remembers that, so it happens once.
#
#   BASE_PYTHON   the Python from which those environments are made        make BASE_PYTHON=python3.13 setup
#   PYTHON        an environment of your own; nothing is installed then    make PYTHON=python test
#   DEMO_PYTHON   the same for the demo; DEMO_RAY_PYTHON and DEMO_SPARK_PYTHON for the others
#   ARGS          passed on to test, sim, bench, counts, demo, diagram and lock    make test ARGS="-k fencing -n 0"

BASE_PYTHON ?= python3
ARGS ?=

DEV_STAMP := .venv/.installed
BACKENDS_STAMP := .venv/.backends
DEMO_STAMP := .venv-demo/.installed
DEMO_RAY_STAMP := .venv-demo-ray/.installed
DEMO_SPARK_STAMP := .venv-demo-spark/.installed
ifndef PYTHON
PYTHON := .venv/bin/python
DEV_READY := $(DEV_STAMP)
BACKENDS_READY := $(BACKENDS_STAMP)
endif
ifndef DEMO_PYTHON
DEMO_PYTHON := .venv-demo/bin/python
DEMO_READY := $(DEMO_STAMP)
endif
ifndef DEMO_RAY_PYTHON
DEMO_RAY_PYTHON := .venv-demo-ray/bin/python
DEMO_RAY_READY := $(DEMO_RAY_STAMP)
endif
ifndef DEMO_SPARK_PYTHON
DEMO_SPARK_PYTHON := .venv-demo-spark/bin/python
DEMO_SPARK_READY := $(DEMO_SPARK_STAMP)
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup check lint format test test-backends coverage sim demo demo-ray demo-spark bench soak performance counts diagram reliability lock clean

help: ## list these commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(DEV_READY) ## install what development needs into .venv

check: lint ## lint, tests/core and tests/architecture: before each commit
	$(PYTHON) -m pytest -q -n logical tests/core tests/architecture

lint: $(DEV_READY) ## format, lint, types, imports
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy --strict src
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-logo

format: $(DEV_READY) ## lay out the code and repair what can be repaired without thought
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

MEASURE_CORE = $(PYTHON) -m coverage erase && $(PYTHON) -m coverage run -m pytest -q -n logical tests/core \
	&& $(PYTHON) -m coverage combine --quiet && $(PYTHON) -m coverage report --fail-under=98

# The other tests run even if the core misses its coverage, and pytest's summary comes last. With ARGS, which select tests, no coverage.
test: $(DEV_READY) ## all tests; those of the core measure its coverage
	@status=0; $(if $(strip $(ARGS)),,{ $(MEASURE_CORE); } || status=$$?;) \
	$(PYTHON) -m pytest -n logical $(or $(strip $(ARGS)),--ignore=tests/core) --ignore=tests/backends || status=$$?; exit $$status

test-backends: $(BACKENDS_READY) ## tests of what is built on Ray, Spark and object stores; installs those first
	$(PYTHON) -m pytest tests/backends $(ARGS)

coverage: $(DEV_READY) ## tests/core alone must cover 98 % of src/exoflow/core, lines and branches
	$(MEASURE_CORE)

MINUTES ?= 10
sim: $(DEV_READY) ## simulate engines for MINUTES=10 with fresh seeds; fails with the command that repeats what broke
	$(PYTHON) -m exoflow simulate --minutes $(MINUTES) --jobs 2 $(ARGS)

demo: $(DEMO_READY) ## kill a training run of handwritten digits and watch it go on
	PYTHONPATH='$(CURDIR)/src' $(DEMO_PYTHON) examples/digits/demo.py $(ARGS)

demo-ray: $(DEMO_RAY_READY) ## kill an actor, and then everything, under a training on Ray
	PYTHONPATH='$(CURDIR)/src' $(DEMO_RAY_PYTHON) examples/training/demo.py

demo-spark: $(DEMO_SPARK_READY) ## kill Spark, and then everything, under a pipeline of DataFrames; needs Java 17
	PYTHONPATH='$(CURDIR)/src' $(DEMO_SPARK_PYTHON) examples/imports/demo.py

bench: $(DEV_READY) ## measure machine and engine; ONLY="P4 P5" some of it, ROUNDS=3, PEERS=1 rivals too, ARGS=--help
	$(PYTHON) -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PEERS),--peers) $(ARGS)

SOAK_MINUTES ?= 5
soak: $(DEV_READY) ## mixed work for SOAK_MINUTES=5; fails if memory, handles, threads or files grow
	$(PYTHON) -m benchmarks.soak --minutes $(SOAK_MINUTES) $(ARGS)

performance: $(DEV_READY) ## write docs/performance.md and its charts anew from docs/benchmarks
	$(PYTHON) -m benchmarks.page $(ARGS)

counts: $(DEV_READY) ## count what the hot operations do and compare with the record; ARGS=--save records it anew
	$(PYTHON) -m benchmarks.counts $(ARGS)

diagram: $(DEV_READY) ## write docs/state_machine.md anew from the transition table
	$(PYTHON) tools/state_diagram.py $(ARGS)

reliability: $(DEV_READY) ## write RELIABILITY.md anew from docs/reliability
	$(PYTHON) -m tools.reliability $(ARGS)

# Pins that still fit are kept; make lock ARGS=--upgrade moves them all.
COMPILE = $(PYTHON) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(ARGS)

lock: $(DEV_READY) ## write requirements/*.txt anew from pyproject.toml
	$(COMPILE) --output-file requirements/runtime.txt
	$(COMPILE) --extra demo --output-file requirements/demo.txt
	$(COMPILE) --extra demo --group dev --output-file requirements/dev.txt
	$(COMPILE) --extra ray --extra refs --extra spark --constraint requirements/dev.txt --output-file requirements/backends.txt
	$(COMPILE) --extra demo --extra ray --constraint requirements/backends.txt --output-file requirements/demo-ray.txt
	$(COMPILE) --extra spark --constraint requirements/backends.txt --output-file requirements/demo-spark.txt

clean: ## remove environments, caches and build output
	rm -rf .venv .venv-demo .venv-demo-ray .venv-demo-spark build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- environments ----------------------------------------------------------------------------------------------------------------

# $(call environment,FOLDER): make a virtual environment unless it is there. Git must not see it.
define environment
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make BASE_PYTHON=python3.11 setup")'
	@test -x $(1)/bin/python || $(BASE_PYTHON) -m venv $(1) || { rm -rf $(1); exit 1; }
	@echo '*' > $(1)/.gitignore
	@echo "Installing into $(1) (once) ..."
endef

$(DEV_STAMP): requirements/dev.txt pyproject.toml
	$(call environment,.venv)
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	.venv/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(BACKENDS_STAMP): requirements/backends.txt $(DEV_STAMP)
	@echo "Installing Ray, Spark and obstore into .venv (once) ..."
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements/backends.txt
	@touch $@

$(DEMO_STAMP): requirements/demo.txt
	$(call environment,.venv-demo)
	.venv-demo/bin/python -m pip install --quiet --require-hashes -r requirements/demo.txt
	@touch $@

$(DEMO_RAY_STAMP): requirements/demo-ray.txt
	$(call environment,.venv-demo-ray)
	.venv-demo-ray/bin/python -m pip install --quiet --require-hashes -r requirements/demo-ray.txt
	@touch $@

$(DEMO_SPARK_STAMP): requirements/demo-spark.txt
	$(call environment,.venv-demo-spark)
	.venv-demo-spark/bin/python -m pip install --quiet --require-hashes -r requirements/demo-spark.txt
	@touch $@
