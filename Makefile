# Two commands: `make demo` and `make test`. Both build .venv on first use and reuse it afterwards.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
DATA ?=
KILLS ?= 50

.PHONY: demo test lint bench bench-all bench-gpu soak clean
.DELETE_ON_ERROR:

$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,deepspeed,test,triton]'
	touch $@

demo: $(STAMP)
	$(BIN)/lxmert-fast demo $(if $(DATA),--data '$(DATA)')

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/interpret -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && $(BIN)/python setup.py --quiet build --build-lib build/types
	$(BIN)/mypy build/types/lxmert_fast

# What the benchmarks compare with; the demo and the tests do without.
$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	touch $@

# The report is written after failures too: whatever was wrong has no speed in it.
bench bench-all: $(PEERS)
	mkdir -p runs/bench
	$(BIN)/python -m pytest bench $(if $(filter bench-all,$@),--whole) --benchmark-json=runs/bench/$@.json \
		--benchmark-columns=median,rounds --durations=20; status=$$?; \
		$(BIN)/lxmert-fast bench report runs/bench/$@.json --out runs/bench/$@ && exit $$status

# Ten minutes; again goes on where it stopped. Without a GPU it is a dry run, which needs no other package.
bench-gpu: $(STAMP)
	$(BIN)/lxmert-fast bench gpu

# Kills ranks of a run at random, $(KILLS) times in at least 2,000 updates, and compares with an unbroken run.
soak: $(STAMP)
	PYTHONPATH=tests/data $(BIN)/python tests/train/soak.py --kills $(KILLS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
