# Two commands: `make demo` and `make test`. Both build .venv on first use and reuse it afterwards.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
DATA ?=
KILLS ?= 50
NLVR ?= ../shared/data/nlvr
DAQUAR ?= ../shared/data/daquar

.PHONY: demo test lint bench bench-all bench-gpu soak nlvr daquar clean
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

# Two published benchmarks from their files to scores: NLVR v1 in hours on two cores, DAQUAR in minutes. Again
# goes on.
nlvr: RUN := OMP_NUM_THREADS=1 $(BIN)/lxmert-fast
nlvr: $(STAMP)
	test -f runs/nlvr/data/regions.h5 || $(RUN) data nlvr '$(NLVR)' runs/nlvr/data
	$(RUN) launch pretrain nlvr_pretrain --ranks 2
	$(RUN) launch finetune nlvr --ranks 2
	$(RUN) launch finetune nlvr --ranks 2 model.start_from=null run.output=runs/nlvr/scratch
	for model in finetuned scratch; do for split in valid test; do \
		$(RUN) predict runs/nlvr/$$model/best runs/nlvr/data/$$split.json runs/nlvr/$$model/$$split.csv \
			--regions runs/nlvr/data/regions.h5 --format nlvr || exit; \
	done; \
	$(RUN) score nlvr runs/nlvr/$$model/valid.csv '$(NLVR)/dev.json' --train-sentences '$(NLVR)/train_sentences.json' && \
	$(RUN) score nlvr runs/nlvr/$$model/test.csv '$(NLVR)/test.json' --train-sentences '$(NLVR)/train_sentences.json' || exit; \
	done

daquar: RUN := OMP_NUM_THREADS=1 $(BIN)/lxmert-fast
daquar: $(STAMP)
	test -f runs/daquar/data/regions.h5 || $(RUN) data daquar '$(DAQUAR)' runs/daquar/data
	$(RUN) pretrain daquar_pretrain
	$(RUN) finetune daquar model.start_from=runs/daquar/pretrained/best
	$(RUN) finetune daquar run.output=runs/daquar/scratch
	$(RUN) finetune daquar data.blind=true run.output=runs/daquar/blind
	for model in finetuned scratch; do \
		$(RUN) predict runs/daquar/$$model/best runs/daquar/data/test.json runs/daquar/$$model/test.json \
			--regions runs/daquar/data/regions.h5 && \
		$(RUN) score daquar runs/daquar/$$model/test.json runs/daquar/data/test.json || exit; \
	done
	$(RUN) evaluate runs/daquar/blind/best runs/daquar/data/test.json --regions runs/daquar/data/regions.h5 \
		--blind --predictions runs/daquar/blind/test.json
	$(RUN) score daquar runs/daquar/blind/test.json runs/daquar/data/test.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
