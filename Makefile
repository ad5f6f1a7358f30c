# Two commands do all the set-up on a fresh machine with Python 3.11 or newer: `make leaderboard` and `make test`.
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: leaderboard test check gate baseline benchmarks clean

# The main job: the standard methods under six budgets on the embedded data set; run again, it resumes.
leaderboard: $(VENV)/.core
	$(BIN)/packbench run --results $(RESULTS)
	$(BIN)/packbench board --results $(RESULTS) --markdown --html site > leaderboard.md
	$(BIN)/packbench board --results $(RESULTS)
	@echo "The leaderboard is in site/index.html and leaderboard.md"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n logical --dist worksteal

# The gate, on ourselves: what a small suite keeps and weighs here, against what the committed baseline kept and weighed.
# Status 3 is "inconclusive", which is told and breaks nothing.
SUITE = sign itq turboquant_mse rabitq pca pq opq rq transform_coding
gate: $(VENV)/.core
	rm -rf build/gate
	$(BIN)/packbench run --quiet --budget 64 --tries 1 $(addprefix --method ,$(SUITE)) --results build/gate
	$(BIN)/packbench compare leaderboard/baseline.jsonl.gz build/gate --any-machine || [ $$? -eq 3 ]

# After a change that is meant to change figures: measure the suite (`make gate`), look, and keep it.
baseline:
	gzip -9nc build/gate/results.jsonl > leaderboard/baseline.jsonl.gz

# What packbench itself costs: benchmarks/RESULTS.md anew, with nothing else at work.
benchmarks: $(VENV)/.dev
	$(PIP) -e '.[dev,paper]'
	$(BIN)/python benchmarks/results.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# A strict editable install lays the package out as links, which is what mypy can follow; links go stale, so anew.
	$(PIP) --no-deps -e . -C editable_mode=strict
	$(BIN)/mypy -p packbench
	$(PIP) --no-deps -e .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("packbench needs Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

# torch first: what is installed after it must not pull in another build.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[text,dev]'
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
