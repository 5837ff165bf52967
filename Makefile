# Every target sets up .venv first, unless that is done. tools/setup_env.sh lists its switches (PYTHON,
# MMSPARX_WHEEL_CACHE, MAX_JOBS, ...), which can be given as `make test PYTHON=...`.

VENV ?= .venv
RUN := $(VENV)/bin/python
export VENV

.PHONY: help setup demo test docs lint format clean distclean

help:
	@echo 'make setup      make $(VENV) with the tested versions (some 10 minutes, once)'
	@echo 'make demo       train a small detector on synthetic images, on a CPU'
	@echo 'make test       run the tests; choose with ARGS="tests/test_ops -k gradcheck"'
	@echo 'make docs       build the documentation site into build/site'
	@echo 'make lint       check style and imports; make format fixes what it can'
	@echo 'make clean      remove what was built; make distclean removes $(VENV) too'

setup:
	@tools/setup_env.sh

demo: setup
	$(RUN) demo/run_demo.py

# There is one process per core, each with one thread: more threads than cores only wait for each other. Tests of a file
# stay together, so that a module's fixtures are made once.
test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

# With --strict a warning, such as a dead link, is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# The stamp is removed, too, so that the next target compiles the scan again.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache mmsparx/_build.json '$(VENV)/.mmsparx-setup'
	find mmsparx -name '_C*.so' -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf '$(VENV)'
