# `make suite` and `make test` set up .venv by themselves; nothing else needs to be installed but Python (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: suite test lint format lock clean

suite: .venv/ready  ## run every suite this machine can run; leaves report bundles under reports/
	$(BIN)/python -m pytest -m suite -rs $(ARGS)

test: .venv/ready  ## run the unit tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/ready  ## style, types of the public API, and the layers contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	touch $@

lock: .venv/ready  ## renew constraints.txt from what is installed
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:
	rm -rf .venv .robbench .benchmarks .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
