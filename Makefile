# Two commands matter: `make run` starts a node, `make test` checks everything.
# Needed: make and Python 3.11 or later with its venv module; the rest is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
REV ?=
SHARE ?= 0.4
SEEDS ?= 1000
TARGET ?=
SECONDS_EACH ?= 60

.PHONY: help run test simulate fuzz demo bench bench-compare docs format clean

help:
	@echo "make run            start a node (ARGS='--tcp-address :4014' passes options)"
	@echo "make test           lint, types and all tests"
	@echo "make simulate       sets in memory under faults (SEEDS=100000 for more)"
	@echo "make fuzz           odd input for every parser (TARGET=archive SECONDS_EACH=3600)"
	@echo "make demo           a throw-away node with a database, and a page to look at"
	@echo "make bench          measure beside Redis; make bench-compare REV=v0.1.0"
	@echo "make docs           write docs/commands.md anew from the command table"
	@echo "make format         format the sources"
	@echo "make clean          remove what these commands made (not the data in dbs)"

run: $(VENV)/.run-installed
	$(BIN)/twistd -n --pidfile= nundb $(ARGS)

# Every check runs even if one before it fails; any failure fails the whole. The unit tests share
# the cores. The integration tests mostly wait for real processes: they are run two files at a time,
# and the seeds of the simulation are run beside them in the time that they leave (`nice`), with
# faults that last a SHARE of what they do in `make simulate`. With ARGS a part of the tests is run,
# and no seeds: then coverage says nothing, and one half may have no such test. Modules are compiled
# once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
UNIT := -n auto --dist worksteal tests/unit tests/fuzz
INTEGRATION := -n 2 --dist loadfile tests/integration
COVERED = $(if $(strip $(ARGS)),--no-cov,--cov)
SIMULATED := $(VENV)/simulation.log
test: $(VENV)/.test-installed
	@status=0; seeds=; \
	tests() { "$$@"; code=$$?; test $$code = 0 || test $$code = 5 -a -n "$(ARGS)" || status=1; }; \
	echo "== ruff check"; $(BIN)/ruff check . || status=1; \
	echo "== ruff format"; $(BIN)/ruff format --check . || status=1; \
	echo "== mypy"; $(BIN)/mypy || status=1; \
	echo "== unit tests"; \
	tests $(BIN)/python -m pytest $(UNIT) $(COVERED) --cov-report= --cov-fail-under=0 $(ARGS); \
	if test -z "$(ARGS)"; then \
		nice -n 19 $(BIN)/python -m nuntwist.simulation \
			--seeds $(SEEDS) --share $(SHARE) > $(SIMULATED) 2>&1 & seeds=$$!; \
	fi; \
	echo "== integration tests"; \
	tests $(BIN)/python -m pytest $(INTEGRATION) $(COVERED) --cov-append $(ARGS); \
	if test -n "$$seeds"; then \
		echo "== simulation"; wait $$seeds || status=1; cat $(SIMULATED); \
	fi; \
	exit $$status

simulate: $(VENV)/.run-installed
	$(BIN)/python -m nuntwist.simulation --seeds $(SEEDS) $(ARGS)

# One target, or several, or all where none is named, one after the other; see docs/testing.md.
fuzz: $(VENV)/.fuzz-installed
	$(BIN)/python -m tests.fuzz run $(TARGET) --seconds $(SECONDS_EACH)

demo: $(VENV)/.run-installed
	$(BIN)/python -m nuntwist.demo $(ARGS)

bench: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks $(ARGS)

bench-compare: $(VENV)/.bench-installed
	@test -n "$(REV)" || { echo "say which revision: make bench-compare REV=v0.1.0" >&2; exit 1; }
	$(BIN)/python -m benchmarks compare $(REV) $(ARGS)

docs: $(VENV)/.run-installed
	$(BIN)/python -m nuntwist.language.docs > docs/commands.md.new
	mv docs/commands.md.new docs/commands.md

format: $(VENV)/.test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed in place (-e), so a changed source needs no new install; a changed
# pyproject.toml does. The stamp files make the second run quick.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run-installed: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test-installed: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,s3]'
	touch $@ $(VENV)/.run-installed

# Without atheris, where there is none for this Python, fuzzing goes on, and says so.
$(VENV)/.fuzz-installed: $(VENV)/.test-installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]' \
	|| echo "atheris cannot be installed for this Python" >&2
	touch $@

$(VENV)/.bench-installed: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@ $(VENV)/.run-installed
