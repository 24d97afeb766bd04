# Two commands: `make demo` and `make test`. Both build .venv on first use and reuse it afterwards.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?=

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	touch $@

demo: $(STAMP)
	$(BIN)/lxmert-fast demo $(if $(DATA),--data '$(DATA)')

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && $(BIN)/python setup.py --quiet build --build-lib build/types
	$(BIN)/mypy build/types/lxmert_fast

bench: $(STAMP)
	$(BIN)/python -m pytest bench --benchmark-columns=min,median,rounds

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
