# make demo | test | check | format. Set-up is done when it is missing and again only when its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
DEMO ?= runs/quickstart

.PHONY: demo test check format constraints clean

demo: $(VENV)/.ready
	$(BIN)/chatwright quickstart $(DEMO)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pins whatever is installed now. The "+cpu" of a CPU build goes: the pin holds for every build of that version.
constraints: $(VENV)/.ready-dev
	{ echo "# The versions that the tests passed with. Made by: make constraints"; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude chatwright | grep -v '^#' | sed 's/+cpu$$//' | sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.ready-dev: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	touch $(VENV)/.ready $@
