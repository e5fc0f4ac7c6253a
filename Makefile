# make demo: learn the built-in tunes and write mixes.
# make test: every test but the slow ones.  make test-fast: while you write; see the markers in tests/conftest.py.
# make lint: linters and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-slow lint clean

demo: $(VENV)/.installed
	$(BIN)/python run.py demo

test test-fast test-slow: export PYTHONDONTWRITEBYTECODE =  # else each process compiles every module again
test test-fast test-slow: export OPENBLAS_NUM_THREADS = 1  # two processes on two cores

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m alone tests/test_studio_browser.py  # these listen for notes that are late

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m "not trains and not evaluates and not thorough" --ignore tests/test_studio_browser.py

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache demo samples
