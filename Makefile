# Every target sets up what it needs: python3 (3.11 or newer, with venv) and git are enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# The tests of a file run in one process; which files begin stands in tests/conftest.py. Real runs wait as often as they
# compute, so there are more processes than cores.
PYTEST := $(BIN)/python -u -m pytest --dist loadfile --no-loadscope-reorder

# Half of what a start costs is compiling the sources, if no bytecode is kept: some machines' environments forbid it.
unexport PYTHONDONTWRITEBYTECODE
# Workers of pytest, and ranks, share the cores; with a thread a core each they would wait for one another, spinning.
check test unit integration test-slurm: export OMP_NUM_THREADS := 1

.PHONY: help setup demo demo-dense check test lint types arrows unit integration test-slurm chaos reference lock clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)  ## the whole job on small data: shards, ZeRO pretraining, kill, resume, finetuning, evaluation
	$(BIN)/python launch/demo.py

demo-dense: $(READY)  ## a segmenter and a detector on small data: scenes, shards, training, kill, resume, evaluation, images of predictions
	$(BIN)/python launch/demo.py --dense

check: lint types arrows  ## while you work: lint, types, import contracts, quick tests
	$(PYTEST) -n 2 -m "not slow" tests/unit tests/test_architecture.py tests/test_commands.py

test: lint types arrows  ## all: lint, types, import contracts and every CPU test; what the quick ones cover is in htmlcov/
	$(PYTEST) -n 4 --cov --cov-report=html tests/unit tests/integration tests/slurm tests/test_architecture.py tests/test_commands.py

lint: $(READY)  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

arrows: $(READY)  ## import-linter: who may import whom
	$(BIN)/lint-imports

unit: $(READY)  ## tests of one process (TESTS="-k order" to choose, here and below)
	$(BIN)/python -u -m pytest tests/unit tests/test_architecture.py tests/test_commands.py $(TESTS)

integration: $(READY)  ## real runs on two ranks
	$(BIN)/python -u -m pytest tests/integration $(TESTS)

test-slurm: $(READY)  ## the job scripts, and jobs on a real two-node SLURM (Debian, root; else skipped)
	$(BIN)/python -u -m pytest tests/slurm $(TESTS)

KILLS ?= 100
chaos: $(READY)  ## 100 kills of one run, damage in between (KILLS=20 SEED=7); figures in runs/chaos.json
	$(BIN)/python -m tests.chaos --kills $(KILLS) --output runs/chaos.json $(if $(SEED),--seed $(SEED))

reference: $(READY)  ## the API reference, from docstrings: build/reference/index.html
	$(BIN)/python -m pdoc --no-show-source --output-directory build/reference hornet pretrain finetune dense scaling

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

clean:  ## remove the environment and caches, not runs/ or data/
	rm -rf .venv build htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
